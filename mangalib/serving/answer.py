"""One answer, from the question to its last frame: the asyncio shell around the streaming machine.

Three tasks an answer: one makes it, one delivers its frames, one keeps them in Redis; `delivery.py` holds the frames.

When the client is gone the model's stream is closed at once. When the client comes back, the answer goes on from the text
it had: the model is asked again with that text as the beginning of its own turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from functools import partial

from botocore.exceptions import BotoCoreError, ClientError
from redis.exceptions import RedisError

from mangalib.aws import ClaudeRequest, Turn, continuing, hedged_stream
from mangalib.domain import ROUTES, Intent, Manga, Route, named_intent
from mangalib.errors import BedrockError, DependencyDownError, MangaError, TransportError
from mangalib.protocol import Chunk, Metadata, Query, is_of
from mangalib.serving import telemetry as metrics
from mangalib.serving.fan_out import Branch, fan_out
from mangalib.serving.framing import Framing
from mangalib.serving.outbox import Outbox
from mangalib.serving.precomputed import CompletedAnswer, PrecomputedAnswer, QueryContext
from mangalib.serving.prompts import assemble
from mangalib.serving.replay_store import AnswerRecord, Plan, StoredAnswer
from mangalib.serving.retrieval import Customer
from mangalib.serving.services import Services
from mangalib.serving.stream import StreamMachine, StreamState

log = logging.getLogger(__name__)

SORRY = "Sorry, I ran into an issue. Please try again."
BUSY = "We are very busy right now. Please try again in a moment."
RETRY_BACKOFF_S = 0.1


class Answer:
    """Made by :meth:`fresh` or :meth:`continued`; :meth:`run` does everything and never raises for what goes wrong."""

    def __init__(
        self,
        services: Services,
        *,
        customer: str,
        request_id: str,
        connection_id: str,
        head: AnswerRecord,
        frames: list[bytes],
        cursor: int = 0,
    ) -> None:
        self.request_id = request_id
        self.session_id = head.session_id
        self.query = head.query
        self._services = services
        self._settings = services.settings
        self._release = services.releases.current
        self._customer = customer
        self._plan = head.plan
        self._intent = head.plan.intent if head.plan else ""
        self._source = "model"
        self._model_id = head.plan.model_id if head.plan else ""
        self._asked: QueryContext | None = None
        self._retrieved: list[Manga] = []
        self._had_history = False
        self._outbox = Outbox(
            services, request_id=request_id, connection_id=connection_id, frames=frames, cursor=cursor
        )
        self._machine = StreamMachine(
            batch_size=self._release.batch_size(self._settings),
            shown=StoredAnswer(head, frames).text,
            buffered=not head.query.stream,
        )
        self._machine.metrics.tokens = head.tokens
        self._machine.metrics.input_tokens = head.input_tokens
        self._machine.metrics.first_token_ms = head.first_token_ms
        self._frames = Framing(services, self._release, self._outbox, self._machine, head.query.text, request_id)
        self._degraded: list[str] = []
        self._deadline_s = time.monotonic() + self._settings.stream_timeout_s + self._settings.send_timeout_s
        self._producing = False
        self._tasks: asyncio.TaskGroup | None = None
        self._producer: asyncio.Task[None] | None = None
        self._deliverer: asyncio.Task[None] | None = None

    @classmethod
    def fresh(
        cls, services: Services, query: Query, *, customer: str, session_id: str, request_id: str, connection_id: str
    ) -> Answer:
        """An answer to a new question."""
        head = AnswerRecord(session_id, query, StreamState.INITIALIZING)
        return cls(
            services, customer=customer, request_id=request_id, connection_id=connection_id, head=head, frames=[]
        )

    @classmethod
    def continued(
        cls,
        services: Services,
        recorded: StoredAnswer,
        *,
        customer: str,
        request_id: str,
        connection_id: str,
        after: int,
    ) -> Answer:
        """An answer that was cut off: first the frames behind ``after`` again, then what is missing."""
        answer = cls(
            services,
            customer=customer,
            request_id=request_id,
            connection_id=connection_id,
            head=recorded.head,
            frames=recorded.frames,
            cursor=min(after + 1, len(recorded.frames)),
        )
        answer._outbox.finished = recorded.head.state in {StreamState.COMPLETED, StreamState.ERROR}
        return answer

    async def run(self) -> None:
        """Make, deliver and keep the answer, until its last frame is out or the client is gone."""
        async with asyncio.TaskGroup() as self._tasks:
            self._deliverer = self._tasks.create_task(self._deliver())
            if not self._outbox.finished:
                self._tasks.create_task(self._outbox.keep(self._customer, self._head))
                self._producer = self._tasks.create_task(self._produce())
        if self._producer is not None:
            metrics.publish_answer(
                self._settings.metrics_namespace,
                model_id=self._model_id,
                intent=self._intent or "unknown",
                state=self._machine.state,
                metrics=self._machine.metrics,
                request_id=self.request_id,
            )

    def attach(self, connection_id: str, after: int) -> bool:
        """Go on towards another connection, from behind frame ``after``; false when this answer is ending already."""
        if self._outbox.stopped or self._outbox.finished:
            return False
        self._outbox.redirect_to(connection_id, after)
        if self._tasks is not None and self._deliverer is not None:  # else it begins with the new connection
            self._deliverer.cancel()
            self._deliverer = self._tasks.create_task(self._deliver())
        return True

    def leave(self, connection_id: str | None = None) -> None:
        """The client is gone (from that connection, if given): stop the model, keep what there is."""
        if connection_id in {None, self._outbox.connection_id} and not self._outbox.stopped:
            self._outbox.stop()
            # A post that is under way goes to nobody; who comes back is not to wait for it.
            if self._deliverer is not None and self._deliverer is not asyncio.current_task():
                self._deliverer.cancel()
            # One that has not begun sees the flag; cancelled before its first step it could not clean up.
            if self._producing and self._producer is not None:
                self._producer.cancel()

    # Making it

    async def _produce(self) -> None:
        self._producing = True
        try:
            if self._outbox.stopped:
                raise asyncio.CancelledError
            async with asyncio.timeout(self._settings.stream_timeout_s):
                found = None
                if self._plan is None:
                    found = await self._look_ahead()
                else:
                    self._frames.begin_cards(Intent(self._intent))
                if found is None or not await self._served(found):
                    plan = self._plan or await self._prepare()
                    await self._generate(plan)
            self._machine.complete(self._frames.now_ms())
            await self._end_with_done()
        except asyncio.CancelledError:
            self._machine.cancel(self._frames.now_ms())
            self._frames.text()
            if not self._outbox.stopped:
                raise
        except TimeoutError:
            self._end_with_error("timeout", SORRY, f"not complete within {self._settings.stream_timeout_s:g} s")
        except MangaError as error:
            message = BUSY if error.code == "busy" else SORRY
            self._end_with_error(error.code, message, str(error), error.retry_after_ms)
        except Exception as error:  # the client must get its error frame whatever happened; the log gets the rest
            log.exception("an answer failed", extra={"request_id": self.request_id})
            self._end_with_error("internal", SORRY, type(error).__name__)
        finally:
            self._producing = False
            self._outbox.finish()

    async def _look_ahead(self) -> PrecomputedAnswer | None:
        """From the question to an answer that exists already, or is being made."""
        query, services = self.query, self._services
        intent = named_intent(query.intent) if query.intent else services.classifier.classify(query.text)
        self._intent = intent.value
        self._frames.mark("classified")
        route = self._release.route(intent, ROUTES[intent])
        self._model_id = self._release.model_id(intent, route, self._settings)
        self._frames.mark("routed")
        if route.status_text:
            self._frames.status("typing", route.status_text, self._intent)
        self._frames.begin_cards(Intent(self._intent))
        asked = self._asked = QueryContext(self._customer, self.session_id, intent, query.text, self._release)
        found: PrecomputedAnswer | None = None
        try:
            with services.breakers.redis.watch():
                async with asyncio.timeout(self._settings.cache_budget_ms / 1000):
                    found = await services.ahead.find(asked)
        except (TimeoutError, DependencyDownError) as error:
            self._degraded.append("cache")
            log.warning("no look ahead: %s", error or "not within its budget", extra={"request_id": self.request_id})
        self._frames.mark("cache")
        return found

    async def _served(self, found: PrecomputedAnswer) -> bool:
        """Pass the answer on; false when its making failed, so that it must be made here."""
        shown, passed = self._machine.text, ""
        try:
            async with contextlib.aclosing(found.pieces()) as pieces:
                async for piece in pieces:
                    passed += piece
                    if not passed.startswith(shown[: len(passed)]):
                        raise TransportError("the answer is not the one that was begun")
                    new = passed[max(len(shown), len(passed) - len(piece)) :]
                    if new:
                        self._machine.receive_text(new, self._frames.now_ms())
                        self._first_token()
                        self._outbox.wake()
        except (MangaError, RedisError, OSError) as error:
            log.warning("made here after all: %s", error, extra={"request_id": self.request_id})
            return False
        self._source, self._intent, self._model_id = found.source, found.intent.value, found.model_id
        tokens, input_tokens = found.tokens()
        self._machine.metrics.tokens += tokens
        self._machine.metrics.input_tokens += input_tokens
        return True

    async def _prepare(self) -> Plan:
        """From the question to the plan: look up what the model must know."""
        query, services, release = self.query, self._services, self._release
        intent = Intent(self._intent)
        route = release.route(intent, ROUTES[intent])
        if route.retrieval:
            self._frames.status("checking", "Let me check...", self._intent)
            self._frames.status("retrieving", "Looking up manga for you...", self._intent)
        outcomes = await fan_out(self._branches(route), parallel=release.optimisations.parallel_fan_out)
        for name, outcome in outcomes.items():
            self._frames.timeline[name] = self._frames.at_ms(outcome.ended_s)
            if outcome.error is not None:
                self._degraded.append(name)
                log.warning("without %s: %s", name, outcome.error, extra={"request_id": self.request_id})
        self._frames.mark("fan_out")
        if route.retrieval:
            self._frames.status("preparing", "Preparing your answer...", self._intent)
        version = release.prompt_versions.get(intent)
        preloaded = release.optimisations.preloaded_prompts
        prompt = (
            services.prompts.lookup(intent, version) if preloaded else await services.prompts.fetch(intent, version)
        )
        customer = (outcomes["customer"].value or Customer()) if "customer" in outcomes else Customer()
        titles = (outcomes["knn"].value or []) if "knn" in outcomes else []
        if services.query_log is not None:
            services.query_log.offer(intent, query.text, customer.name)
        request = assemble(
            prompt,
            query.text,
            route=route,
            titles=titles,
            customer=customer,
            max_tokens=self._settings.max_answer_tokens,
        )
        self._retrieved = titles
        self._had_history = bool(customer.history)
        self._plan = Plan(intent.value, self._model_id, request)
        self._frames.mark("prompt")
        return self._plan

    def _branches(self, route: Route) -> list[Branch]:
        services, settings, text = self._services, self._settings, self.query.text
        branches = []
        if route.retrieval:
            search = partial(services.search.nearest, text, warm=self._release.optimisations.warm_pool)
            branches.append(Branch("knn", search, settings.knn_deadline_ms, services.breakers.search))
        if route.knows_customer:
            fetch = partial(services.customers.fetch, self._customer, self.session_id)
            branches.append(Branch("customer", fetch, settings.profile_deadline_ms, services.breakers.customers))
        return branches

    def _first_token(self) -> None:
        if "first_token" not in self._frames.timeline and self._machine.has_text:
            self._frames.mark("first_token")
            if self._asked is not None:
                self._services.ahead.on_first_token(self._asked, [title.manga_id for title in self._retrieved])

    async def _generate(self, plan: Plan) -> None:
        request = continuing(plan.request, self._machine.text)
        for attempt in range(1, self._settings.max_attempts + 1):
            self._machine.invoked()
            self._frames.mark("model_asked")
            try:
                await self._stream(plan.model_id, request)
                return
            except (BedrockError, TransportError) as error:
                retryable = not isinstance(error, BedrockError) or error.retryable
                if self._machine.has_text or attempt == self._settings.max_attempts or not retryable:
                    raise
                if not self._services.bedrock.may_retry():
                    log.warning("no retry, too many fail", extra={"request_id": self.request_id})
                    raise
                log.warning("attempt %d failed: %s", attempt, error, extra={"request_id": self.request_id})
                fresh_connection_helps = isinstance(error, TransportError) and not error.answered
                await asyncio.sleep(0 if fresh_connection_helps else RETRY_BACKOFF_S * random.uniform(0.5, 1.5))

    async def _stream(self, model_id: str, request: ClaudeRequest) -> None:
        machine = self._machine
        warm = self._release.optimisations.warm_pool
        services = self._services
        async with hedged_stream(services.bedrock, services.hedge, model_id, request, warm=warm) as stream:
            self._frames.timeline["model_answered"] = self._frames.at_ms(stream.answered_s)
            async for events in stream:
                machine.receive(events, self._frames.now_ms())
                self._first_token()
                self._outbox.wake()
        if not machine.finished_by_model:
            raise TransportError("the model's stream ended before its last event", answered=True)

    # Ending it

    async def _end_with_done(self) -> None:
        self._frames.text()
        await self._frames.products(self._retrieved)
        machine = self._machine
        self._frames.mark("done")
        metadata = Metadata(
            first_token_ms=round(machine.metrics.first_token_ms or self._frames.now_ms(), 1),
            total_ms=round(machine.metrics.total_ms or self._frames.now_ms(), 1),
            tokens=machine.metrics.tokens,
            input_tokens=machine.metrics.input_tokens,
            model_id=self._model_id,
            intent=self._intent,
            source=self._source,
            timeline=self._frames.timeline,
            attempts=max(1, machine.metrics.attempts),
            release=self._release.number,
            degraded=self._degraded,
        )
        self._frames.done(metadata)
        if self._tasks is not None and ROUTES[Intent(self._intent)].knows_customer:
            self._tasks.create_task(self._remember())
        if self._asked is not None:
            cost = machine.metrics.tokens + machine.metrics.input_tokens
            told = CompletedAnswer(
                machine.text, self._source, self._model_id, cost, metadata.total_ms, self._had_history
            )
            self._services.ahead.on_completed(self._asked, told)

    def _end_with_error(self, code: str, message: str, reason: str, retry_after_ms: int | None = None) -> None:
        log.warning("answer ended with %s: %s", code, reason, extra={"request_id": self.request_id})
        self._machine.fail(reason, self._frames.now_ms())
        self._frames.text()
        self._frames.error(code, message, retry_after_ms)

    async def _remember(self) -> None:
        customers = self._services.customers
        try:
            async with asyncio.timeout(2 * self._settings.profile_deadline_ms / 1000):
                before = (
                    self._plan.request.messages[:-1]
                    if self._plan is not None
                    else (await customers.fetch(self._customer, self.session_id)).history
                )
                turns = [*before, Turn("user", self.query.text), Turn("assistant", self._machine.text)]
                await customers.remember(self._customer, self.session_id, turns)
        except (ClientError, BotoCoreError, OSError, TimeoutError) as error:
            extra = {"request_id": self.request_id}
            log.warning("the conversation was not kept: %s: %s", type(error).__name__, error, extra=extra)

    # Delivering it

    async def _deliver(self) -> None:
        if not await self._outbox.deliver(self._frames.text, self._sent, deadline_s=self._deadline_s):
            self.leave()

    def _sent(self, frame: bytes) -> None:
        self._frames.timeline.setdefault("first_frame", self._frames.now_ms())
        if is_of(frame, Chunk):
            self._machine.sent(len(frame))

    def _head(self) -> AnswerRecord:
        numbers = self._machine.metrics
        return AnswerRecord(
            session_id=self.session_id,
            query=self.query,
            state=self._machine.state,
            tokens=numbers.tokens,
            input_tokens=numbers.input_tokens,
            first_token_ms=numbers.first_token_ms,
            plan=self._plan,
        )
