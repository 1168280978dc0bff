"""Makes one answer ahead of its question: looks up what it needs, asks the model, and notes what the answer depends on."""

from __future__ import annotations

import time

from mangalib.aws import ClaudeRequest, ModelReply, ModelTransport
from mangalib.domain import ROUTES, Catalogue, Manga, Release
from mangalib.errors import TransportError
from mangalib.precompute.facts import Facts
from mangalib.precompute.generated_answer import ORDERS, GeneratedAnswer, facts_of, fingerprint
from mangalib.precompute.generation.single_flight import Write
from mangalib.precompute.generation.spec import GenerationSpec, Kind, question_of, request_for, written_from_facts
from mangalib.serving import Customer, CustomerData, PromptStore, Reads, TitleSearch
from mangalib.settings import Settings


class AnswerGenerator:
    """Generates answers. ``models`` is the live transport or the one that background work has to itself."""

    def __init__(
        self,
        models: ModelTransport,
        search: TitleSearch,
        prompts: PromptStore,
        customers: CustomerData,
        facts: Facts,
        catalogue: Catalogue,
        settings: Settings,
    ) -> None:
        self._models = models
        self._search = search
        self._prompts = prompts
        self._customers = customers
        self._facts = facts
        self._catalogue = catalogue
        self._settings = settings

    def built_on(self, spec: GenerationSpec, release: Release) -> str:
        """The fingerprint of the prompt and the model that an answer is made with now."""
        return fingerprint(self._prompt(spec, release), spec.model_id)

    async def order(self, spec: GenerationSpec, release: Release, customer: str, session_id: str) -> GenerationRequest:
        """Look up everything that the answer is made from, and what it will depend on."""
        title: Manga | None = None
        if spec.need.title:
            title = (await self._facts.titles([spec.need.title])).get(spec.need.title)
            if title is None:
                raise TransportError(f"nothing is known of title {spec.need.title}")
        route = ROUTES[spec.topic.intent]
        near: list[Manga] = []
        if route.retrieval and spec.kind is not Kind.TEMPLATE:
            near = await self._search.nearest(
                title.description if title else question_of(spec.need, None), self._models
            )
        personal = route.personal and spec.kind is not Kind.SHARED
        reads = Reads(history=False)
        known = await self._customers.fetch(customer, session_id, reads) if personal else Customer()
        # What the search brings may be older than the facts that the answer will be held against.
        current = await self._facts.titles([other.manga_id for other in near])
        near = [current[other.manga_id] for other in near if other.manga_id in current]
        depends = {manga.manga_id: facts_of(manga) for manga in [*near, *([title] if title else [])]}
        if known.orders and not route.retrieval:
            depends[ORDERS] = fingerprint(known.orders)
        request = ClaudeRequest(0, [])
        if spec.kind is not Kind.PREFETCH:
            request = request_for(spec, self._prompt(spec, release), title, near, known)
        return GenerationRequest(spec, request, title, near, depends)

    async def make(
        self, order: GenerationRequest, release: Release, write: Write, *, source: str, program: str = ""
    ) -> GeneratedAnswer:
        """Make it, passing the text on as it comes. Raises what the model's stream raises."""
        spec, tokens = order.spec, 0
        if spec.kind is Kind.PREFETCH:
            assert order.title is not None
            text = written_from_facts(order.title, order.near, spec.need.language)
            await write(text)
        else:
            text, tokens = await self._ask(order, write)
        now_s = time.time()
        mentioned = {manga.manga_id for manga in self._catalogue.mentioned(text)} | {spec.need.title, ORDERS}
        return GeneratedAnswer(
            text=text,
            intent=spec.topic.intent,
            source=source,
            model_id="" if spec.kind is Kind.PREFETCH else spec.model_id,
            tokens=tokens,
            request=order.request,
            depends={name: value for name, value in order.depends.items() if name in mentioned},
            built_on=self.built_on(spec, release),
            need=spec.need.key,
            program=program,
            made_at_s=now_s,
            fresh_until_s=now_s + self._settings.cache_fresh_s,
        )

    async def _ask(self, order: GenerationRequest, write: Write) -> tuple[str, int]:
        reply, texts = ModelReply(), []
        async with self._models.stream(order.spec.model_id, order.request) as stream:
            async for events in stream:
                if piece := "".join(reply.receive(events)):
                    texts.append(piece)
                    await write(piece)
        reply.require_complete()
        return "".join(texts), reply.tokens + reply.input_tokens

    def _prompt(self, spec: GenerationSpec, release: Release) -> str:
        return self._prompts.lookup(spec.topic.intent, release.prompt_versions.get(spec.topic.intent))


class GenerationRequest:
    """A recipe with all that goes into it."""

    def __init__(
        self,
        spec: GenerationSpec,
        request: ClaudeRequest,
        title: Manga | None,
        near: list[Manga],
        depends: dict[str, str],
    ) -> None:
        self.spec = spec
        self.request = request
        self.title = title
        self.near = near
        self.depends = depends
