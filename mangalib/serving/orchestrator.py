"""The orchestrator: the back end of the gateway's HTTP integration.

Each client message is one POST. It is answered at once; frames for the client go through the management API.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Coroutine
from typing import Any

import msgspec
from aiohttp import web
from redis.asyncio import Redis

from mangalib.errors import (
    AuthError,
    ConnectionGoneError,
    MangaError,
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
from mangalib.resilience import NO_JITTER, backoff_pauses, refresh_periodically
from mangalib.serving.auth import customer_of
from mangalib.serving.connections import ClientConnection, ConnectionRecord, ConnectionRecords
from mangalib.serving.running_answers import RunningAnswers
from mangalib.serving.services import Services
from mangalib.settings import OrchestratorSettings

log = logging.getLogger(__name__)

SESSION_TICK_S = 1.0
CONTROL_FRAME_TIMEOUT_S = 5.0
MAX_SESSION_ID_CHARS = 128


class Orchestrator:
    """Use as ``async with Orchestrator(services, redis, settings) as orchestrator``; leaving stops the running answers and keeps
    what there is of them."""

    def __init__(self, services: Services, redis: Redis, settings: OrchestratorSettings) -> None:
        self._services = services
        self._settings = settings
        self._records = ConnectionRecords(redis, lifetime_s=settings.connection_lifetime_s)
        self._answers = RunningAnswers(services, settings, self._spawn)
        self._clients: dict[str, ClientConnection] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._watcher: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Orchestrator:
        self._tasks = await asyncio.TaskGroup().__aenter__()
        watching = refresh_periodically("watching the sessions", SESSION_TICK_S, self._tick_sessions)
        self._watcher = self._tasks.create_task(watching)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._tasks is not None
        assert self._watcher is not None
        self._watcher.cancel()
        self._answers.stop()
        await self._tasks.__aexit__(None, None, None)

    async def drain(self) -> None:
        """Accept nothing new from now on, and wait for the answers that run, ``drain_timeout_s`` at most."""
        await self._answers.drain()

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
        record = ConnectionRecord(customer, session_id)
        client = self._new_client(connection_id, record)
        with self._services.breakers.redis_optional("the connection is known to this process only"):
            async with asyncio.timeout(self._settings.replay_timeout_ms / 1000):
                await self._records.save(connection_id, record)
        self._spawn(self._send_session_info(client))
        return web.Response()

    def _new_client(self, connection_id: str, record: ConnectionRecord) -> ClientConnection:
        now_s = time.monotonic()
        session = Session(self._settings, now_s)
        session.connected(now_s)
        session.authenticated(now_s)
        rate = RateLimit(self._settings.messages_per_second)
        client = ClientConnection(connection_id, record.customer, record.session_id, session, rate)
        self._clients[connection_id] = client
        return client

    async def _send_session_info(self, client: ClientConnection) -> None:
        # A post before $connect has finished is answered by 410, so this one may have to wait a little.
        deadline_s = time.monotonic() + CONTROL_FRAME_TIMEOUT_S
        frame = encode(SessionInfo(client.session_id, client.session.state))
        for pause_s in backoff_pauses(0.01, 0.5, jitter=NO_JITTER):
            if client.connection_id not in self._clients or time.monotonic() >= deadline_s:
                return
            try:
                await self._services.management.post(client.connection_id, frame, deadline_s=deadline_s)
            except ConnectionGoneError:
                await asyncio.sleep(pause_s)
            except MangaError as error:
                log.info("the session frame was not delivered: %s", error)
                return
            else:
                return

    def _disconnect(self, connection_id: str) -> None:
        client = self._clients.pop(connection_id, None)
        if client is None:
            return
        client.closed = True
        if client.session.state is not SessionState.DISCONNECTED:
            client.session.network_error(time.monotonic())
        for answer in client.answers.values():
            answer.client_left(connection_id)
        scope = (client.customer, client.session_id)
        if not any((other.customer, other.session_id) == scope for other in self._clients.values()):
            self._services.precomputed.on_session_closed(*scope)
        self._spawn(self._delete_record(connection_id))

    async def _delete_record(self, connection_id: str) -> None:
        with self._services.breakers.redis_optional("a connection's record is left to expire"):
            await self._records.delete(connection_id)

    async def _client(self, connection_id: str) -> ClientConnection | None:
        client = self._clients.get(connection_id)
        if client is not None:
            return client
        record = None
        with self._services.breakers.redis_optional("an unknown connection could not be looked up"):
            record = await self._records.load(connection_id)
        return None if record is None else self._new_client(connection_id, record)

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
                    self._answers.start(client, query)
                case Ping():
                    await self._post(connection_id, Pong())
                case Resume() as resume:
                    if await self._answers.resume(client, resume):
                        await self._post(connection_id, SessionInfo(client.session_id, SessionState.STREAMING))
                case Disconnect():
                    self._disconnect(connection_id)
                    await self._close(connection_id)
        except MangaError as error:
            frame = Error(error.code, str(error), _request_id_in(body), retry_after_ms=error.retry_after_ms)
            await self._post(connection_id, frame)

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

    async def _tick_sessions(self) -> None:
        for client in list(self._clients.values()):
            if client.session.tick(time.monotonic()):
                self._spawn(self._send_state(client))

    async def _send_state(self, client: ClientConnection) -> None:
        ended = client.session.state is SessionState.DISCONNECTED
        if ended:
            self._disconnect(client.connection_id)
        await self._post(client.connection_id, SessionInfo(client.session_id, client.session.state))
        if ended:
            await self._close(client.connection_id)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        assert self._tasks is not None, "enter the orchestrator first"
        return self._tasks.create_task(_logging_errors(coroutine))


async def _logging_errors(coroutine: Coroutine[Any, Any, None]) -> None:
    """Log an error in one client's task instead of raising it, which would end the tasks of the others."""
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
