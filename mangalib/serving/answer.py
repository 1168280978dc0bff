"""One answer, from the question to its last frame: the asyncio shell around the streaming machine.

Three tasks an answer: one makes it, one delivers its frames in order with one post in flight, one keeps them in Redis.
The list of frames is what ties them together: delivering is a cursor that moves along it, so that a client that comes
back is served by setting the cursor to where it was.

When the client is gone the model's stream is closed at once. When the client comes back, the answer goes on from the text
it had: the model is asked again with that text as the beginning of its own turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Iterator
from functools import partial

import msgspec
from botocore.exceptions import BotoCoreError, ClientError
from redis.exceptions import RedisError

from mangalib.errors import BedrockError, ConnectionGoneError, MangaError, TransportError
from mangalib.serving import metrics
from mangalib.serving.ahead import Asked, Found, Given
from mangalib.serving.bedrock import ClaudeRequest, Turn
from mangalib.serving.fanout import Branch, fan_out
from mangalib.serving.messages import Chunk, Done, Error, Metadata, Query, Status, encode
from mangalib.serving.prompts import assemble
from mangalib.serving.replay import Head, Plan, Recorded
from mangalib.serving.retrieval import Customer
from mangalib.serving.routing import ROUTES, Intent, Route, named_intent
from mangalib.serving.services import Services
from mangalib.serving.stream import StreamMachine, StreamState

log = logging.getLogger(__name__)

SORRY = "Sorry, I ran into an issue. Please try again."
BUSY = "We are very busy right now. Please try again in a moment."
RETRY_BACKOFF_S = 0.1


class Answer:
    """Made by :meth:`fresh` or :meth:`continued`; :meth:`run` does everything and never raises for what goes wrong."""

    def __init__(
        self, services: Services, *, customer: str, request_id: str, connection_id: str, head: Head, frames: list[bytes]
    ) -> None:
        self.request_id = request_id
        self.session_id = head.session_id
        self.query = head.query
        self._services = services
        self._settings = services.settings
        self._release = services.releases.current
        self._customer = customer
        self._connection_id = connection_id
        self._plan = head.plan
        self._intent = head.plan.intent if head.plan else ""
        self._source = "model"
        self._model_id = head.plan.model_id if head.plan else ""
        self._asked: Asked | None = None
        self._titles: list[str] = []
        self._had_history = False
        self._frames = frames
        self._seen_statuses = {frame.state for frame in _statuses(frames)}
        self._cursor = len(frames)
        self._saved = len(frames)
        self._machine = StreamMachine(
            batch_size=self._release.batch_size(self._settings), shown=head.text, buffered=not head.query.stream
        )
        self._machine.metrics.tokens = head.tokens
        self._machine.metrics.input_tokens = head.input_tokens
        self._machine.metrics.first_token_ms = head.first_token_ms
        self._started_s = time.monotonic()
        self._timeline: dict[str, float] = {"received": 0.0}
        self._degraded: list[str] = []
        self._finished = False
        self._producing = False
        self._leaving = False
        self._something_new = asyncio.Event()
        self._something_to_save = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None
        self._producer: asyncio.Task[None] | None = None
        self._deliverer: asyncio.Task[None] | None = None

    @classmethod
    def fresh(
        cls, services: Services, query: Query, *, customer: str, session_id: str, request_id: str, connection_id: str
    ) -> Answer:
        """An answer to a new question."""
        head = Head(session_id, query, StreamState.INITIALIZING)
        return cls(
            services, customer=customer, request_id=request_id, connection_id=connection_id, head=head, frames=[]
        )

    @classmethod
    def continued(
        cls,
        services: Services,
        recorded: Recorded,
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
        )
        answer._cursor = min(after + 1, len(recorded.frames))
        answer._finished = recorded.head.state in {StreamState.COMPLETED, StreamState.ERROR}
        return answer

    async def run(self) -> None:
        """Make, deliver and keep the answer, until its last frame is out or the client is gone."""
        async with asyncio.TaskGroup() as self._tasks:
            self._deliverer = self._tasks.create_task(self._deliver())
            if not self._finished:
                self._tasks.create_task(self._keep())
                self._producer = self._tasks.create_task(self._produce())
        if self._producer is not None:
            self._report()

    def attach(self, connection_id: str, after: int) -> bool:
        """Go on towards another connection, from behind frame ``after``; false when this answer is ending already."""
        if self._leaving or self._finished or self._tasks is None:
            return False
        self._connection_id = connection_id
        self._cursor = min(after + 1, len(self._frames))
        if self._deliverer is not None:
            self._deliverer.cancel()
        self._deliverer = self._tasks.create_task(self._deliver())
        return True

    def leave(self, connection_id: str | None = None) -> None:
        """The client is gone (from that connection, if given): stop the model, keep what there is."""
        if connection_id in {None, self._connection_id} and not self._leaving:
            self._leaving = True
            # One that has not begun sees the flag; cancelled before its first step it could not clean up.
            if self._producing and self._producer is not None:
                self._producer.cancel()
            self._something_new.set()

    # Making it

    async def _produce(self) -> None:
        self._producing = True
        try:
            if self._leaving:
                raise asyncio.CancelledError
            async with asyncio.timeout(self._settings.stream_timeout_s):
                found = await self._look_ahead() if self._plan is None else None
                if found is None or not await self._served(found):
                    plan = self._plan or await self._prepare()
                    await self._generate(plan)
            self._machine.complete(self._now_ms())
            self._end_with_done()
        except asyncio.CancelledError:
            self._machine.cancel(self._now_ms())
            self._frame_pending()
            if not self._leaving:
                raise
        except TimeoutError:
            self._end_with_error("timeout", SORRY, f"not complete within {self._settings.stream_timeout_s:g} s")
        except MangaError as error:
            self._end_with_error(error.code, BUSY if error.code == "busy" else SORRY, str(error))
        except Exception as error:  # the client must get its error frame whatever happened; the log gets the rest
            log.exception("an answer failed", extra={"request_id": self.request_id})
            self._end_with_error("internal", SORRY, type(error).__name__)
        finally:
            self._producing = False
            self._finished = True
            self._wake()

    async def _look_ahead(self) -> Found | None:
        """From the question to an answer that exists already, or is being made."""
        query, services = self.query, self._services
        intent = named_intent(query.intent) if query.intent else services.classifier.classify(query.text)
        self._intent = intent.value
        self._mark("classified")
        route = self._release.route(intent, ROUTES[intent])
        self._model_id = self._release.model_id(intent, route, self._settings)
        self._mark("routed")
        if route.status_text:
            self._status("typing", route.status_text)
        asked = self._asked = Asked(self._customer, self.session_id, intent, query.text, self._release)
        found: Found | None = None
        try:
            async with asyncio.timeout(self._settings.cache_budget_ms / 1000):
                found = await services.ahead.find(asked)
        except TimeoutError:
            self._degraded.append("cache")
            log.warning("no look ahead within its budget", extra={"request_id": self.request_id})
        self._mark("cache")
        return found

    async def _served(self, found: Found) -> bool:
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
                        self._machine.receive_text(new, self._now_ms())
                        self._first_token()
                        self._something_new.set()
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
            self._status("checking", "Let me check...")
            self._status("retrieving", "Looking up manga for you...")
        outcomes = await fan_out(self._branches(route), parallel=release.optimisations.parallel_fan_out)
        for name, outcome in outcomes.items():
            self._timeline[name] = self._at_ms(outcome.ended_s)
            if outcome.error is not None:
                self._degraded.append(name)
                log.warning("without %s: %s", name, outcome.error, extra={"request_id": self.request_id})
        self._mark("fan_out")
        if route.retrieval:
            self._status("preparing", "Preparing your answer...")
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
        self._titles = [title.manga_id for title in titles]
        self._had_history = bool(customer.history)
        self._plan = Plan(intent.value, self._model_id, request)
        self._mark("prompt")
        return self._plan

    def _branches(self, route: Route) -> list[Branch]:
        services, settings, text = self._services, self._settings, self.query.text
        branches = []
        if route.retrieval:
            search = partial(services.search.nearest, text, warm=self._release.optimisations.warm_pool)
            branches.append(Branch("knn", search, settings.knn_deadline_ms))
        if route.knows_customer:
            fetch = partial(services.customers.fetch, self._customer, self.session_id)
            branches.append(Branch("customer", fetch, settings.profile_deadline_ms))
        return branches

    def _first_token(self) -> None:
        if "first_token" not in self._timeline and self._machine.has_text:
            self._mark("first_token")
            if self._asked is not None:
                self._services.ahead.began(self._asked, self._titles)

    async def _generate(self, plan: Plan) -> None:
        request = _continuing(plan.request, self._machine.text)
        for attempt in range(1, self._settings.max_attempts + 1):
            self._machine.invoked()
            self._mark("model_asked")
            try:
                await self._stream(plan.model_id, request)
                return
            except (BedrockError, TransportError) as error:
                retryable = not isinstance(error, BedrockError) or error.retryable
                if self._machine.has_text or attempt == self._settings.max_attempts or not retryable:
                    raise
                log.warning("attempt %d failed: %s", attempt, error, extra={"request_id": self.request_id})
                fresh_connection_helps = isinstance(error, TransportError) and not error.answered
                await asyncio.sleep(0 if fresh_connection_helps else RETRY_BACKOFF_S * random.uniform(0.5, 1.5))

    async def _stream(self, model_id: str, request: ClaudeRequest) -> None:
        machine = self._machine
        warm = self._release.optimisations.warm_pool
        async with self._services.bedrock.stream(model_id, request, warm=warm) as stream:
            self._mark("model_answered")
            async for events in stream:
                machine.receive(events, self._now_ms())
                self._first_token()
                self._something_new.set()
        if not machine.finished_by_model:
            raise TransportError("the model's stream ended before its last event", answered=True)

    # Ending it

    def _end_with_done(self) -> None:
        self._frame_pending()
        machine = self._machine
        self._mark("done")
        metadata = Metadata(
            first_token_ms=round(machine.metrics.first_token_ms or self._now_ms(), 1),
            total_ms=round(machine.metrics.total_ms or self._now_ms(), 1),
            tokens=machine.metrics.tokens,
            input_tokens=machine.metrics.input_tokens,
            model_id=self._model_id,
            intent=self._intent,
            source=self._source,
            timeline=self._timeline,
            attempts=max(1, machine.metrics.attempts),
            release=self._release.number,
            degraded=self._degraded,
        )
        self._append(Done(metadata, self.request_id, len(self._frames)))
        if self._tasks is not None and ROUTES[Intent(self._intent)].knows_customer:
            self._tasks.create_task(self._remember())
        if self._asked is not None:
            cost = machine.metrics.tokens + machine.metrics.input_tokens
            told = Given(machine.text, self._source, self._model_id, cost, metadata.total_ms, self._had_history)
            self._services.ahead.ended(self._asked, told)

    def _end_with_error(self, code: str, message: str, reason: str) -> None:
        log.warning("answer ended with %s: %s", code, reason, extra={"request_id": self.request_id})
        self._machine.fail(reason, self._now_ms())
        self._frame_pending()
        self._append(Error(code, message, self.request_id, len(self._frames)))

    async def _remember(self) -> None:
        with self._logged("the conversation was not kept"):
            async with asyncio.timeout(2 * self._settings.profile_deadline_ms / 1000):
                customers = self._services.customers
                before = (
                    self._plan.request.messages[:-1]
                    if self._plan is not None
                    else (await customers.fetch(self._customer, self.session_id)).history
                )
                turns = [*before, Turn("user", self.query.text), Turn("assistant", self._machine.text)]
                await customers.remember(self._customer, self.session_id, turns)

    def _report(self) -> None:
        metrics.publish(
            self._settings.metrics_namespace,
            model_id=self._model_id,
            intent=self._intent or "unknown",
            state=self._machine.state,
            metrics=self._machine.metrics,
            request_id=self.request_id,
        )

    # Delivering it

    async def _deliver(self) -> None:
        deadline_s = self._started_s + self._settings.stream_timeout_s + self._settings.send_timeout_s
        while not self._leaving:
            self._frame_pending()
            if self._cursor == len(self._frames):
                if self._finished:
                    return
                self._something_new.clear()
                await self._something_new.wait()
                continue
            frame = self._frames[self._cursor]
            try:
                await self._services.management.post(self._connection_id, frame, deadline_s=deadline_s)
            except ConnectionGoneError:
                self.leave()
            except MangaError as error:
                log.warning("frames not delivered: %s", error, extra={"request_id": self.request_id})
                self.leave()
            else:
                self._cursor += 1
                self._timeline.setdefault("first_frame", self._now_ms())
                if _is(frame, "chunk"):
                    self._machine.sent(len(frame))

    # Keeping it

    async def _keep(self) -> None:
        while True:
            await self._something_to_save.wait()
            self._something_to_save.clear()
            last = self._finished
            until = len(self._frames)
            with self._logged("the replay buffer was not written"):
                async with asyncio.timeout(self._settings.replay_timeout_ms / 1000):
                    frames = self._frames[self._saved : until]
                    await self._services.replay.save(self._customer, self.request_id, self._head(), frames, self._saved)
                self._saved = until
            if last:
                return

    def _head(self) -> Head:
        numbers = self._machine.metrics
        return Head(
            session_id=self.session_id,
            query=self.query,
            state=self._machine.state,
            text=self._machine.taken,
            tokens=numbers.tokens,
            input_tokens=numbers.input_tokens,
            first_token_ms=numbers.first_token_ms,
            plan=self._plan,
        )

    # Small things

    def _status(self, state: str, message: str) -> None:
        if self._release.optimisations.status_messages and state not in self._seen_statuses:
            self._append(Status(state, message, self.request_id, len(self._frames)))

    def _frame_pending(self) -> None:
        if self._cursor == len(self._frames) or self._machine.state.final:
            text = self._machine.take()
            if text is not None:
                self._append(Chunk(text, self.request_id, len(self._frames)))

    def _append(self, frame: Status | Chunk | Done | Error) -> None:
        self._frames.append(encode(frame))
        self._wake()

    def _wake(self) -> None:
        self._something_new.set()
        self._something_to_save.set()

    def _now_ms(self) -> float:
        return self._at_ms(time.monotonic())

    def _at_ms(self, moment_s: float) -> float:
        return round((moment_s - self._started_s) * 1000, 2)

    def _mark(self, name: str) -> None:
        self._timeline[name] = self._now_ms()

    @contextlib.contextmanager
    def _logged(self, what: str) -> Iterator[None]:
        try:
            yield
        except (RedisError, ClientError, BotoCoreError, OSError, TimeoutError) as error:
            log.warning("%s: %s: %s", what, type(error).__name__, error, extra={"request_id": self.request_id})


def _continuing(request: ClaudeRequest, text: str) -> ClaudeRequest:
    """The same request with ``text`` as what the model has said so far; it may not end in white space."""
    said = text.rstrip()
    if not said:
        return request
    return msgspec.structs.replace(request, messages=[*request.messages, Turn("assistant", said)])


def _statuses(frames: list[bytes]) -> list[Status]:
    return [msgspec.json.decode(frame, type=Status) for frame in frames if _is(frame, "status")]


def _is(frame: bytes, kind: str) -> bool:
    # The encoder puts the type first.
    return frame.startswith(b'{"type":"' + kind.encode() + b'"')
