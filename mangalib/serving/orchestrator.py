"""The orchestrator: the gateway's HTTP integration in front, sessions and answers behind.

One POST a client message. It is answered at once; whatever the client is to see goes through the management API.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import random
import time
import uuid
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web
from redis.asyncio import Redis
from redis.exceptions import RedisError

from mangalib.domain import named_intent
from mangalib.errors import (
    AuthError,
    BadRequestError,
    BusyError,
    ConnectionGoneError,
    DependencyDownError,
    GoingAwayError,
    InterruptedAnswerError,
    MangaError,
    NotFoundError,
)
from mangalib.protocol import (
    Disconnect,
    Error,
    Ping,
    Pong,
    Query,
    RateLimit,
    Resume,
    ServerFrame,
    Session,
    SessionInfo,
    SessionState,
    encode,
    parse_client_message,
)
from mangalib.serving.answer import Answer
from mangalib.serving.answer_protocol import BUSY, AnswerProtocol
from mangalib.serving.answer_record import StoredAnswer
from mangalib.serving.auth import customer_of
from mangalib.serving.services import Services
from mangalib.settings import OrchestratorSettings

log = logging.getLogger(__name__)

SESSION_TICK_S = 1.0
CONTROL_FRAME_TIMEOUT_S = 5.0
MAX_SESSION_ID_CHARS = 128


@dataclass
class Client:
    """One connection of a customer, and the answers that run on it."""

    connection_id: str
    customer: str
    session_id: str
    session: Session
    rate: RateLimit
    answers: dict[str, Answer] = field(default_factory=dict)


@dataclass
class Running:
    """An answer that is being made, its task, and the client that it goes to."""

    answer: Answer
    task: asyncio.Task[None]
    client: Client


class ConnectionRecord(msgspec.Struct, frozen=True):
    """What another orchestrator must know to take a connection over."""

    customer: str
    session_id: str


class Orchestrator:
    """Use as ``async with Orchestrator(services, redis, settings) as orchestrator``; leaving stops and keeps running answers."""

    def __init__(self, services: Services, redis: Redis, settings: OrchestratorSettings) -> None:
        self._services = services
        self._settings = settings
        self._redis = redis
        self._clients: dict[str, Client] = {}
        self._running: dict[tuple[str, str], Running] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._draining = False

    async def __aenter__(self) -> Orchestrator:
        self._tasks = await asyncio.TaskGroup().__aenter__()
        self._watcher = self._tasks.create_task(self._watch_sessions())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._tasks is not None
        assert self._watcher is not None
        self._watcher.cancel()
        for running in self._running.values():
            running.answer.client_left()
        await self._tasks.__aexit__(None, None, None)

    async def drain(self) -> None:
        """Take nothing new from now on, and wait for the answers that run, ``drain_timeout_s`` at most."""
        self._draining = True
        running = [running.task for running in self._running.values()]
        log.info("draining, %d answers are running", len(running))
        if running:
            await asyncio.wait(running, timeout=self._settings.drain_timeout_s)

    async def handle(self, request: web.Request) -> web.Response:
        """The integration's one endpoint."""
        route = request.headers.get("routeKey", "")
        connection_id = request.headers.get("connectionId", "")
        if not connection_id:
            return web.json_response({"message": "connectionId: missing; expected the gateway's header"}, status=400)
        if route == "$connect":
            return await self._connect(connection_id, request)
        if route == "$disconnect":
            self._disconnect(connection_id)
            return web.Response()
        body = await request.read()
        self._spawn(self._message(connection_id, body))
        return web.Response()

    # Connections

    async def _connect(self, connection_id: str, request: web.Request) -> web.Response:
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        try:
            customer = customer_of(bearer or request.headers.get("token", ""), self._settings)
        except AuthError as error:
            log.info("connection refused: %s", error)
            return web.json_response({"message": str(error)}, status=401)
        asked = request.headers.get("session", "")
        if len(asked) > MAX_SESSION_ID_CHARS:
            return web.json_response({"message": f"session: longer than {MAX_SESSION_ID_CHARS}"}, status=403)
        session_id = asked or uuid.uuid4().hex
        client = self._new_client(connection_id, ConnectionRecord(customer, session_id))
        with self._redis_optional("the connection is known to this process only"):
            async with asyncio.timeout(self._settings.replay_timeout_ms / 1000):
                record = encode(ConnectionRecord(customer, session_id))
                lifetime_s = int(self._settings.connection_lifetime_s)
                await self._redis.set(_connection_key(connection_id), record, ex=lifetime_s)
        self._spawn(self._greet(client))
        return web.Response()

    def _new_client(self, connection_id: str, record: ConnectionRecord) -> Client:
        now_s = time.monotonic()
        session = Session(self._settings, now_s)
        session.connected(now_s)
        session.authenticated(now_s)
        rate = RateLimit(self._settings.messages_per_second)
        client = Client(connection_id, record.customer, record.session_id, session, rate)
        self._clients[connection_id] = client
        return client

    async def _greet(self, client: Client) -> None:
        # A post before $connect has finished is answered by 410, so this one may have to wait a little.
        deadline_s = time.monotonic() + CONTROL_FRAME_TIMEOUT_S
        frame = encode(SessionInfo(client.session_id, client.session.state))
        pause_s = 0.01
        while client.connection_id in self._clients and time.monotonic() < deadline_s:
            try:
                await self._services.management.post(client.connection_id, frame, deadline_s=deadline_s)
            except ConnectionGoneError:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, 0.5)
            except MangaError as error:
                log.info("the session frame was not delivered: %s", error)
                return
            else:
                return

    def _disconnect(self, connection_id: str) -> None:
        client = self._clients.pop(connection_id, None)
        if client is None:
            return
        client.session.network_error(time.monotonic())
        for answer in client.answers.values():
            answer.client_left(connection_id)
        scope = (client.customer, client.session_id)
        if not any((other.customer, other.session_id) == scope for other in self._clients.values()):
            self._services.precomputed.on_session_closed(*scope)
        self._spawn(self._forget(connection_id))

    async def _forget(self, connection_id: str) -> None:
        with self._redis_optional("a connection's record is left to expire"):
            await self._redis.delete(_connection_key(connection_id))

    async def _client(self, connection_id: str) -> Client | None:
        client = self._clients.get(connection_id)
        if client is not None:
            return client
        with self._redis_optional("an unknown connection could not be looked up"):
            found = await self._redis.get(_connection_key(connection_id))
            if found is not None:
                return self._new_client(connection_id, msgspec.json.decode(found, type=ConnectionRecord))
        return None

    # Messages

    async def _message(self, connection_id: str, body: bytes) -> None:
        client = await self._client(connection_id)
        if client is None:
            await self._post(connection_id, Error("unauthorized", "This connection is not known; connect again."))
            await self._close(connection_id)
            return
        over = client.rate.over(time.monotonic())
        if over:
            if over == 1:
                limit = self._settings.messages_per_second
                await self._post(connection_id, Error("rate_limited", f"More than {limit} messages a second."))
            return
        if connection_id not in self._clients:
            return  # gone while this message was on its way
        client.session.activity(time.monotonic())
        try:
            match parse_client_message(body):
                case Query() as query:
                    self._start(client, query)
                case Ping():
                    await self._post(connection_id, Pong())
                case Resume() as resume:
                    await self._resume(client, resume)
                case Disconnect():
                    self._disconnect(connection_id)
                    await self._close(connection_id)
        except MangaError as error:
            frame = Error(error.code, str(error), _request_id_in(body), retry_after_ms=error.retry_after_ms)
            await self._post(connection_id, frame)

    def _start(self, client: Client, query: Query) -> None:
        if not query.text.strip():
            raise BadRequestError("text: empty; expected a question")
        if len(query.text) > self._settings.max_query_chars:
            raise BadRequestError(
                f"text: {len(query.text)} characters; expected at most {self._settings.max_query_chars}"
            )
        if query.intent is not None:
            named_intent(query.intent)
        self._admit()
        if len(client.answers) >= self._settings.max_running_answers:
            raise BusyError(f"{len(client.answers)} answers are running on this connection; wait for one to end")
        request_id = query.request_id or uuid.uuid4().hex
        if (client.customer, request_id) in self._running:
            raise BadRequestError(f"request_id: {request_id!r} is running already; expected a new one")
        self._run(client, self._protocol(query, request_id, client.session_id))

    def _admit(self) -> None:
        """Refuse what cannot be served well now, before anything is done for it: those who are served stay as fast as ever."""
        self._refuse_if_draining()
        if len(self._running) >= self._settings.capacity_answers:
            # Scattered, so that those who were refused together do not come back together.
            raise BusyError(BUSY, retry_after_ms=round(self._settings.busy_retry_ms * random.uniform(0.5, 1.5)))

    def _refuse_if_draining(self) -> None:
        if self._draining:
            raise GoingAwayError("This server is being replaced; connect again.", retry_after_ms=0)

    async def _resume(self, client: Client, resume: Resume) -> None:
        key = (client.customer, resume.request_id)
        running = self._running.get(key)
        if running is not None:
            if running.answer.redirect_to(client.connection_id, resume.after):
                self._release(running)
                self._hold(client, running)
                return
            await asyncio.wait([running.task], timeout=CONTROL_FRAME_TIMEOUT_S)
        self._refuse_if_draining()
        stored = None
        with self._redis_optional("an answer could not be looked up"):
            stored = await self._services.replay.load(*key)
        if stored is None and resume.after < 0:
            raise NotFoundError(f"request_id: no answer {resume.request_id!r} is kept; ask again")
        if stored is None or stored.lacks(resume.after):
            raise InterruptedAnswerError("The answer was interrupted. What you have of it stands; please ask again.")
        if (now_running := self._running.get(key)) is not None:
            if now_running is running:
                raise BusyError(BUSY, retry_after_ms=round(self._settings.busy_retry_ms))
            # A client that heard nothing asked twice, and the first of the two goes on with it already.
            await self._resume(client, resume)
            return
        record = stored.record
        client.session_id = record.session_id
        protocol = self._protocol(record.query, resume.request_id, record.session_id, stored, resume.after)
        # No wait between looking whether it runs and running it: a second request to go on must find this one.
        self._run(client, protocol)
        await self._post(client.connection_id, SessionInfo(client.session_id, SessionState.STREAMING))

    def _protocol(
        self, query: Query, request_id: str, session_id: str, stored: StoredAnswer | None = None, after: int = -1
    ) -> AnswerProtocol:
        services = self._services
        return AnswerProtocol(
            query,
            request_id=request_id,
            session_id=session_id,
            release=services.releases.current,
            catalogue=services.catalogue,
            settings=services.settings,
            stored=stored,
            after=after,
        )

    def _run(self, client: Client, protocol: AnswerProtocol) -> None:
        if client.connection_id not in self._clients:
            return  # gone meanwhile; what there is of the answer is kept
        answer = Answer(self._services, protocol, customer=client.customer, connection_id=client.connection_id)
        key = (client.customer, answer.request_id)
        running = Running(answer, self._spawn(self._run_to_end(key, answer)), client)
        self._running[key] = running
        self._hold(client, running)

    async def _run_to_end(self, key: tuple[str, str], answer: Answer) -> None:
        try:
            await answer.run()
        finally:
            self._release(self._running.pop(key))

    def _hold(self, client: Client, running: Running) -> None:
        """The answer goes to that client from now on."""
        running.client = client
        client.answers[running.answer.request_id] = running.answer
        client.session.query_started(time.monotonic())

    def _release(self, running: Running) -> None:
        """The answer has ended, or goes to another connection."""
        del running.client.answers[running.answer.request_id]
        if running.client.session.state is not SessionState.DISCONNECTED:
            running.client.session.query_ended(time.monotonic())

    # Frames that belong to no answer

    async def _post(self, connection_id: str, frame: ServerFrame) -> None:
        try:
            deadline_s = time.monotonic() + CONTROL_FRAME_TIMEOUT_S
            await self._services.management.post(connection_id, encode(frame), deadline_s=deadline_s)
        except MangaError as error:
            log.info("a frame was not delivered: %s", error)

    async def _close(self, connection_id: str) -> None:
        try:
            await self._services.management.close(connection_id)
        except MangaError as error:
            log.info("a connection could not be closed: %s", error)

    async def _watch_sessions(self) -> None:
        while True:
            await asyncio.sleep(SESSION_TICK_S)
            for client in list(self._clients.values()):
                if client.session.tick(time.monotonic()):
                    self._spawn(self._tell_state(client))

    async def _tell_state(self, client: Client) -> None:
        await self._post(client.connection_id, SessionInfo(client.session_id, client.session.state))
        if client.session.state is SessionState.DISCONNECTED:
            self._clients.pop(client.connection_id, None)
            await self._close(client.connection_id)

    @contextlib.contextmanager
    def _redis_optional(self, consequence: str) -> Iterator[None]:
        try:
            with self._services.breakers.redis.watch():
                yield
        except (RedisError, OSError, TimeoutError, DependencyDownError) as error:
            log.warning("Redis: %s: %s; %s", type(error).__name__, error, consequence)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        assert self._tasks is not None, "enter the orchestrator first"
        return self._tasks.create_task(_contained(coroutine))


async def _contained(coroutine: Coroutine[Any, Any, None]) -> None:
    """What goes wrong for one client must not end the others: it is logged and ends here."""
    try:
        await coroutine
    except Exception:
        log.exception("a client's task failed")


def _request_id_in(body: bytes) -> str | None:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return None
    request_id = value.get("request_id") if isinstance(value, dict) else None
    return request_id if isinstance(request_id, str) else None


def _connection_key(connection_id: str) -> str:
    return "connection:" + hashlib.sha256(connection_id.encode()).hexdigest()
