"""Where an answer's text comes from: an answer that exists already, else the model, given what was looked up."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from functools import partial

from redis.exceptions import RedisError

from mangalib.aws import continuing, hedged_stream
from mangalib.domain import Intent, Manga
from mangalib.errors import BedrockError, DependencyDownError, MangaError, TransportError
from mangalib.nlu import ParsedQuestion
from mangalib.resilience import backoff_pauses
from mangalib.serving.answer_protocol import AnswerProtocol, Continue, Invoke, Retry
from mangalib.serving.fan_out import Branch, LookupResult, fan_out
from mangalib.serving.outbox import Outbox
from mangalib.serving.precomputed import PrecomputedAnswer, QueryContext
from mangalib.serving.prompts import assemble
from mangalib.serving.retrieval import Customer, Reads
from mangalib.serving.services import Services

log = logging.getLogger(__name__)

RETRY_BACKOFF_S = 0.1
RETRY_BACKOFF_MAX_S = 2.0
RETRY_JITTER = (0.5, 1.5)


class TextSource:
    """Feeds one answer's protocol until its text is complete; raises ``MangaError`` when that fails.

    ``context`` is the question for pre-computation, once it was looked up there; ``titles`` are those of the answer that was
    found, as they are now.
    """

    def __init__(self, services: Services, protocol: AnswerProtocol, outbox: Outbox, customer: str) -> None:
        self.context: QueryContext | None = None
        self.titles: dict[str, Manga] = {}
        self._services = services
        self._settings = services.settings
        self._protocol = protocol
        self._release = protocol.release
        self._outbox = outbox
        self._customer = customer
        self._announced = False

    async def run(self) -> None:
        """Precomputed where there is such an answer, else from the model."""
        protocol = self._protocol
        question = self._services.parser.parse(protocol.query.text, protocol.query.intent)
        protocol.classified(question, self._outbox.now_ms())
        self._outbox.wake()
        if protocol.text_complete:
            return
        if protocol.plan is None:
            found = await self._find(question)
            if found is not None and await self._serve(found):
                return
            await self._look_up(question)
        await self._invoke()

    async def _find(self, question: ParsedQuestion) -> PrecomputedAnswer | None:
        """An answer that exists already, or is being generated; none where that is not known within the cache's budget."""
        protocol, services = self._protocol, self._services
        self.context = QueryContext(self._customer, protocol.session_id, question, self._release)
        found, failed = None, False
        try:
            with services.breakers.redis.watch():
                async with asyncio.timeout(self._settings.cache_budget_ms / 1000):
                    found = await services.precomputed.find(self.context)
        except (TimeoutError, DependencyDownError) as error:
            failed = True
            log.warning("cache: %s", error or "not within its budget", extra={"request_id": self._protocol.request_id})
        protocol.reached("cache", self._outbox.now_ms(), failed=failed)
        return found

    async def _serve(self, found: PrecomputedAnswer) -> bool:
        """Pass a precomputed answer on; false when it fails on the way, so that the model is invoked after all."""
        try:
            async with aclosing(found.pieces()) as pieces:
                async for piece in pieces:
                    self._protocol.found(piece, self._outbox.now_ms())
                    self._text_came()
        except (MangaError, RedisError, OSError) as error:
            log.warning(
                "precomputed answer: %s; invoking the model", error, extra={"request_id": self._protocol.request_id}
            )
            return False
        self._protocol.served(found.source, found.intent, found.model_id, *found.tokens())
        self.titles = found.titles
        return True

    async def _look_up(self, question: ParsedQuestion) -> None:
        """What the model is given: similar titles, the customer and the conversation, the prompt."""
        protocol, services, outbox = self._protocol, self._services, self._outbox
        protocol.looking_up()
        outbox.wake()
        results = await fan_out(self._branches(question), parallel=self._release.optimisations.parallel_fan_out)
        for name, result in results.items():
            protocol.reached(name, outbox.at_ms(result.ended_s), failed=result.error is not None)
            if result.error is not None:
                log.warning("without %s: %s", name, result.error, extra={"request_id": self._protocol.request_id})
        protocol.looked_up(outbox.now_ms())
        outbox.wake()
        customer = results.get("customer", LookupResult()).value or Customer()
        titles = results.get("knn", LookupResult()).value or []
        if services.query_log is not None:
            services.query_log.offer(question.intent, question.text, customer.name)
        request = assemble(
            await self._prompt(question.intent),
            question.text,
            route=protocol.route,
            titles=titles,
            customer=customer,
            max_tokens=self._settings.max_answer_tokens,
        )
        protocol.retrieved(request, titles, outbox.now_ms(), had_history=bool(customer.history))

    async def _prompt(self, intent: Intent) -> str:
        prompts, version = self._services.prompts, self._release.prompt_versions.get(intent)
        if self._release.optimisations.preloaded_prompts:
            return prompts.lookup(intent, version)
        return await prompts.fetch(intent, version)

    def _branches(self, question: ParsedQuestion) -> list[Branch]:
        services, settings, route = self._services, self._settings, self._protocol.route
        branches = []
        if route.retrieval:
            search = partial(services.search.nearest, question.text, services.models_of(self._release))
            branches.append(Branch("knn", search, settings.knn_deadline_ms, services.breakers.search))
        if route.knows_customer:
            reads = Reads(profile=route.personal or services.query_log is not None, orders=route.personal, history=True)
            fetch = partial(services.customers.fetch, self._customer, self._protocol.session_id, reads)
            branches.append(Branch("customer", fetch, settings.profile_deadline_ms, services.breakers.customers))
        return branches

    async def _invoke(self) -> None:
        protocol, services = self._protocol, self._services
        decision = protocol.invocation()
        services.model_retries.deposit()
        pauses = backoff_pauses(RETRY_BACKOFF_S, RETRY_BACKOFF_MAX_S, jitter=RETRY_JITTER)
        while True:
            protocol.invoked(self._outbox.now_ms())
            try:
                return await self._stream(decision)
            except (BedrockError, TransportError) as error:
                match protocol.model_failed(error):
                    case Retry(at_once=at_once) if services.model_retries.withdraw():
                        log.warning("model: %s; retrying", error, extra={"request_id": self._protocol.request_id})
                        await asyncio.sleep(0 if at_once else next(pauses))
                    case _:
                        raise

    async def _stream(self, decision: Invoke | Continue) -> None:
        protocol, services, request = self._protocol, self._services, decision.request
        if isinstance(decision, Continue):
            request = continuing(request, decision.text)
        models = services.models_of(self._release)
        async with hedged_stream(models, services.hedge, decision.model_id, request) as stream:
            protocol.reached("model_answered", self._outbox.at_ms(stream.answered_s))
            async for events in stream:
                protocol.model_events(events, self._outbox.now_ms())
                self._text_came()
        protocol.model_ended()

    def _text_came(self) -> None:
        self._outbox.wake()
        if self.context is not None and self._protocol.has_text and not self._announced:
            self._announced = True
            titles = [title.manga_id for title in self._protocol.retrieved_titles]
            self._services.precomputed.on_first_token(self.context, titles)
