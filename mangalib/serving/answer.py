"""The asyncio shell around one answer: it holds the tasks and time-outs, and feeds the protocol with what happens.

Three tasks an answer: one generates it, one sends its frames, one keeps them in Redis. When the client is gone the model's
stream is closed at once; when it comes back, the answer is continued from the text it had.
"""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import aclosing
from functools import partial

from botocore.exceptions import BotoCoreError, ClientError
from redis.exceptions import RedisError

from mangalib.aws import Turn, continuing, hedged_stream
from mangalib.domain import Intent, Manga
from mangalib.errors import BedrockError, DependencyDownError, MangaError, TransportError
from mangalib.nlu import ParsedQuestion
from mangalib.serving.answer_protocol import AnswerProtocol, Continue, Invoke, Retry
from mangalib.serving.fan_out import Branch, LookupResult, fan_out
from mangalib.serving.outbox import Outbox
from mangalib.serving.precomputed import CompletedAnswer, PrecomputedAnswer, QueryContext
from mangalib.serving.prompts import assemble
from mangalib.serving.retrieval import Customer, Reads
from mangalib.serving.services import Services
from mangalib.serving.telemetry import publish_answer

log = logging.getLogger(__name__)

RETRY_BACKOFF_S = 0.1


class Answer:
    """:meth:`run` does everything, and never raises for what goes wrong with the answer."""

    def __init__(self, services: Services, protocol: AnswerProtocol, *, customer: str, connection_id: str) -> None:
        self.request_id = protocol.request_id
        self._services = services
        self._settings = services.settings
        self._release = services.releases.current
        self._protocol = protocol
        self._customer = customer
        self._outbox = Outbox(services, protocol, customer=customer, connection_id=connection_id)
        self._context: QueryContext | None = None
        self._found_titles: dict[str, Manga] = {}
        self._announced = False
        self._generating = False
        self._tasks: asyncio.TaskGroup | None = None
        self._generator: asyncio.Task[None] | None = None
        self._sender: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Generate, send and keep the answer, until its last frame is out or the client is gone."""
        generated = not self._protocol.finished
        async with asyncio.TaskGroup() as self._tasks:
            self._sender = self._tasks.create_task(self._send())
            if generated:
                self._tasks.create_task(self._outbox.keep())
                self._generator = self._tasks.create_task(self._generate())
        if generated:
            publish_answer(
                self._settings.metrics_namespace,
                model_id=self._protocol.model_id,
                intent=self._protocol.intent or "unknown",
                state=self._protocol.state,
                metrics=self._protocol.metrics,
                request_id=self.request_id,
            )

    def redirect_to(self, connection_id: str, after: int) -> bool:
        """Send to another connection from behind frame ``after`` on; false when this answer is ending already."""
        if self._protocol.stopped or self._protocol.finished:
            return False
        self._outbox.connection_id = connection_id
        self._protocol.resumed(after)
        if self._tasks is not None and self._sender is not None:  # else it begins with the new connection
            self._sender.cancel()
            self._sender = self._tasks.create_task(self._send())
        return True

    def client_left(self, connection_id: str | None = None) -> None:
        """The client is gone (from that connection, if given): stop the model, keep what there is."""
        if connection_id not in {None, self._outbox.connection_id} or self._protocol.stopped:
            return
        self._protocol.client_left()
        self._outbox.wake()
        # A post that is under way goes to nobody; a client that comes back must not wait for it.
        if self._sender is not None and self._sender is not asyncio.current_task():
            self._sender.cancel()
        # A task that has not begun sees the flag; cancelled before its first step it could not clean up.
        if self._generating and self._generator is not None:
            self._generator.cancel()

    async def _send(self) -> None:
        if not await self._outbox.deliver():
            self.client_left()

    async def _generate(self) -> None:
        """From the question to the last frame, whatever goes wrong."""
        protocol, now_ms = self._protocol, self._outbox.now_ms
        self._generating = True
        try:
            if protocol.stopped:
                raise asyncio.CancelledError
            async with asyncio.timeout(self._settings.stream_timeout_s):
                await self._text()
            await self._complete()
        except asyncio.CancelledError:
            protocol.cancelled(now_ms())
            if not protocol.stopped:
                raise
        except TimeoutError:
            self._fail("timeout", f"not complete within {self._settings.stream_timeout_s:g} s")
        except MangaError as error:
            self._fail(error.code, str(error), error.retry_after_ms)
        except Exception as error:  # the client must get its error frame whatever happened; the log gets the rest
            log.exception("an answer failed", extra={"request_id": self.request_id})
            self._fail("internal", type(error).__name__)
        finally:
            self._generating = False
            self._outbox.wake()

    def _fail(self, code: str, reason: str, retry_after_ms: int | None = None) -> None:
        log.warning("answer ended with %s: %s", code, reason, extra={"request_id": self.request_id})
        self._protocol.failed(code, reason, self._outbox.now_ms(), retry_after_ms)

    # The text

    async def _text(self) -> None:
        """Precomputed where there is such an answer, else from the model."""
        protocol = self._protocol
        question = self._services.parser.parse(protocol.query.text, protocol.query.intent)
        protocol.classified(question, self._outbox.now_ms())
        self._outbox.wake()
        if protocol.plan is None:
            found = await self._find(question)
            if found is not None and await self._serve(found):
                return
            await self._look_up(question)
        await self._invoke()

    async def _find(self, question: ParsedQuestion) -> PrecomputedAnswer | None:
        """An answer that exists already, or is being generated; none where that is not known within the cache's budget."""
        protocol, services = self._protocol, self._services
        self._context = QueryContext(self._customer, protocol.session_id, question, self._release)
        found, failed = None, False
        try:
            with services.breakers.redis.watch():
                async with asyncio.timeout(self._settings.cache_budget_ms / 1000):
                    found = await services.precomputed.find(self._context)
        except (TimeoutError, DependencyDownError) as error:
            failed = True
            log.warning("cache: %s", error or "not within its budget", extra={"request_id": self.request_id})
        protocol.reached("cache", self._outbox.now_ms(), failed=failed)
        return found

    async def _serve(self, found: PrecomputedAnswer) -> bool:
        """Pass a precomputed answer on; false when it fails on the way, so that the model is asked after all."""
        try:
            async with aclosing(found.pieces()) as pieces:
                async for piece in pieces:
                    self._protocol.found(piece, self._outbox.now_ms())
                    self._text_came()
        except (MangaError, RedisError, OSError) as error:
            log.warning("precomputed answer: %s; asking the model", error, extra={"request_id": self.request_id})
            return False
        self._protocol.served(found.source, found.intent, found.model_id, *found.tokens())
        self._found_titles = found.titles
        return True

    async def _look_up(self, question: ParsedQuestion) -> None:
        """What the model must know: similar titles, the customer and the conversation, the prompt."""
        protocol, services, outbox = self._protocol, self._services, self._outbox
        protocol.looking_up()
        outbox.wake()
        results = await fan_out(self._branches(question), parallel=self._release.optimisations.parallel_fan_out)
        for name, result in results.items():
            protocol.reached(name, outbox.at_ms(result.ended_s), failed=result.error is not None)
            if result.error is not None:
                log.warning("without %s: %s", name, result.error, extra={"request_id": self.request_id})
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
        while True:
            protocol.invoked(self._outbox.now_ms())
            try:
                return await self._stream(decision)
            except (BedrockError, TransportError) as error:
                match protocol.model_failed(error):
                    case Retry(at_once=at_once) if services.model_retries.withdraw():
                        log.warning("model: %s; asking again", error, extra={"request_id": self.request_id})
                        await asyncio.sleep(0 if at_once else RETRY_BACKOFF_S * random.uniform(0.5, 1.5))
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
        if self._context is not None and self._protocol.has_text and not self._announced:
            self._announced = True
            titles = [title.manga_id for title in self._protocol.retrieved_titles]
            self._services.precomputed.on_first_token(self._context, titles)

    # The end

    async def _complete(self) -> None:
        protocol, services = self._protocol, self._services
        wanted = protocol.completed(self._outbox.now_ms())
        self._outbox.wake()
        known = self._found_titles
        missing = [manga_id for manga_id in wanted if manga_id not in known]
        try:
            async with asyncio.timeout(self._settings.cache_budget_ms / 1000):
                known = {**known, **(await services.precomputed.titles(missing) if missing else {})}
        except TimeoutError:
            log.warning("prices are those of the catalogue", extra={"request_id": self.request_id})
        protocol.priced(known, self._outbox.now_ms())
        if protocol.knows_customer and self._tasks is not None:
            self._tasks.create_task(self._remember())
        if self._context is not None:
            cost = protocol.metrics.tokens + protocol.metrics.input_tokens
            total_ms = protocol.metrics.total_ms or 0.0
            services.precomputed.on_completed(
                self._context,
                CompletedAnswer(
                    protocol.text, protocol.source, protocol.model_id, cost, total_ms, protocol.had_history
                ),
            )

    async def _remember(self) -> None:
        protocol, customers = self._protocol, self._services.customers
        try:
            async with asyncio.timeout(2 * self._settings.profile_deadline_ms / 1000):
                before = (
                    protocol.plan.request.messages[:-1]
                    if protocol.plan is not None
                    else await customers.history(self._customer, protocol.session_id)
                )
                turns = [*before, Turn("user", protocol.query.text), Turn("assistant", protocol.text)]
                await customers.remember(self._customer, protocol.session_id, turns)
        except (ClientError, BotoCoreError, OSError, TimeoutError) as error:
            extra = {"request_id": self.request_id}
            log.warning("the conversation was not kept: %s: %s", type(error).__name__, error, extra=extra)
