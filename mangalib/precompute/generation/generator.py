"""Generates one answer before its question is asked: retrieves its inputs, asks the model, records its dependencies."""

from __future__ import annotations

import time
from dataclasses import dataclass

from mangalib.aws import ClaudeRequest, ModelReply, ModelTransport
from mangalib.domain import ROUTES, Catalogue, Manga, Release
from mangalib.errors import TransportError
from mangalib.precompute.facts import Facts
from mangalib.precompute.generated_answer import ORDERS, GeneratedAnswer, fingerprint, title_fingerprint
from mangalib.precompute.generation.single_flight import WriteText
from mangalib.precompute.generation.spec import (
    GenerationMethod,
    GenerationSpec,
    build_model_request,
    prefetched_text,
    prompt_fingerprint,
    standard_wording,
)
from mangalib.serving import Customer, CustomerData, PromptStore, Reads, TitleSearch
from mangalib.settings import CacheSettings


@dataclass(frozen=True)
class GenerationRequest:
    """A spec with everything that the answer is generated from; ``depends`` as in :class:`GeneratedAnswer`."""

    spec: GenerationSpec
    model_request: ClaudeRequest
    title: Manga | None
    similar: list[Manga]
    depends: dict[str, str]


class AnswerGenerator:
    """Generates answers through ``models``: the transport of live queries, or that of background work."""

    def __init__(
        self,
        models: ModelTransport,
        search: TitleSearch,
        prompts: PromptStore,
        customers: CustomerData,
        facts: Facts,
        catalogue: Catalogue,
        settings: CacheSettings,
    ) -> None:
        self._models = models
        self._search = search
        self._prompts = prompts
        self._customers = customers
        self._facts = facts
        self._catalogue = catalogue
        self._settings = settings

    async def prepare(
        self, spec: GenerationSpec, release: Release, customer: str, session_id: str
    ) -> GenerationRequest:
        """Retrieve everything that the answer is generated from; raises ``TransportError`` for an unknown title."""
        title = await self._title(spec)
        route = ROUTES[spec.topic.intent]
        similar: list[Manga] = []
        if route.retrieval and spec.method is not GenerationMethod.TEMPLATE:
            similar = await self._similar(title.description if title else standard_wording(spec.question, None))
        personal = route.personal and spec.method is not GenerationMethod.SHARED
        customer_data = (
            await self._customers.fetch(customer, session_id, Reads(history=False)) if personal else Customer()
        )
        depends = {manga.manga_id: title_fingerprint(manga) for manga in [*similar, *([title] if title else [])]}
        if customer_data.orders and not route.retrieval:
            depends[ORDERS] = fingerprint(customer_data.orders)
        if spec.method is GenerationMethod.PREFETCH:
            return GenerationRequest(spec, ClaudeRequest(0, []), title, similar, depends)
        prompt = self._prompts.lookup(spec.topic.intent, release.prompt_versions.get(spec.topic.intent))
        request = build_model_request(spec, prompt, title, similar, customer_data)
        return GenerationRequest(spec, request, title, similar, depends)

    async def generate(
        self, request: GenerationRequest, release: Release, write: WriteText, *, source: str, program: str = ""
    ) -> GeneratedAnswer:
        """Generate the answer, writing its text as it comes. Raises what the model's stream raises."""
        spec, tokens = request.spec, 0
        if spec.method is GenerationMethod.PREFETCH:
            assert request.title is not None
            text = prefetched_text(request.title, request.similar, spec.question.language)
            await write(text)
        else:
            text, tokens = await self._stream(request, write)
        now_s = time.time()
        mentioned = {manga.manga_id for manga in self._catalogue.mentioned(text)} | {spec.question.title, ORDERS}
        return GeneratedAnswer(
            text=text,
            intent=spec.topic.intent,
            source=source,
            model_id="" if spec.method is GenerationMethod.PREFETCH else spec.model_id,
            tokens=tokens,
            request=request.model_request,
            depends={name: value for name, value in request.depends.items() if name in mentioned},
            built_on=prompt_fingerprint(self._prompts, release, spec.topic.intent, spec.model_id),
            need=spec.question.key,
            program=program,
            fresh_until_s=now_s + self._settings.cache_fresh_s,
        )

    async def _title(self, spec: GenerationSpec) -> Manga | None:
        manga_id = spec.question.title
        if not manga_id:
            return None
        title = (await self._facts.titles([manga_id])).get(manga_id)
        if title is None:
            raise TransportError(f"title {manga_id!r}: no facts in Redis; publish them with mangalib catalogue-changed")
        return title

    async def _similar(self, text: str) -> list[Manga]:
        """The titles nearest to ``text``, with their current facts: those in the search index may be older."""
        nearest = await self._search.nearest(text, self._models)
        current = await self._facts.titles([manga.manga_id for manga in nearest])
        return [current[manga.manga_id] for manga in nearest if manga.manga_id in current]

    async def _stream(self, request: GenerationRequest, write: WriteText) -> tuple[str, int]:
        reply, pieces = ModelReply(), []
        async with self._models.stream(request.spec.model_id, request.model_request) as stream:
            async for events in stream:
                if piece := "".join(reply.receive(events)):
                    pieces.append(piece)
                    await write(piece)
        reply.require_complete()
        return "".join(pieces), reply.tokens + reply.input_tokens
