"""The Python client of the chat, for notebooks, benchmarks and tests.

>>> async def example(url: str, token: str) -> str:
...     async with Client(url, token) as client:
...         return (await client.answer("Tell me about One Piece")).text
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import islice
from typing import NamedTuple
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from mangalib.errors import AuthError, BadRequestError, BusyError, MangaError, TransportError, TransportTimeoutError
from mangalib.protocol import (
    Chunk,
    ClientMessage,
    Done,
    Error,
    Metadata,
    Ping,
    Query,
    Resume,
    ServerFrame,
    Session,
    SessionInfo,
    SessionState,
    encode,
    parse_server_frame,
)
from mangalib.resilience import backoff_pauses
from mangalib.settings import ClientSettings, load_settings

log = logging.getLogger(__name__)

# A long message is sent in fragments below the gateway's frame limit; a character of UTF-8 takes four bytes at most.
_UTF8_BYTES_MAX = 4
_QUEUED_FRAMES = 1024


class Received(NamedTuple):
    """A frame and the time of its arrival: ms since its query was sent, by this client's clock."""

    at_ms: float
    frame: ServerFrame


@dataclass
class Reply:
    """An answer as this client received it; times in ms since the query was sent. ``error`` is set if it ended with one."""

    request_id: str
    text: str = ""
    metadata: Metadata | None = None
    error: Error | None = None
    frames: list[Received] = field(default_factory=list)
    first_token_ms: float | None = None
    total_ms: float | None = None


@dataclass
class _Pending:
    query: Query
    sent_s: float
    frames: asyncio.Queue[Received | MangaError]
    last_seq: int = -1
    resent: bool = False
    redirects: int = 0


class Client:
    """A conversation over one WebSocket, as an async context manager.

    When the connection is lost while an answer runs, the client reconnects with back-off, up to ``reconnect_attempts``
    times, and resumes the answer after the last frame that arrived: no frame is lost or duplicated.
    """

    def __init__(
        self, url: str, token: str, *, session_id: str | None = None, settings: ClientSettings | None = None
    ) -> None:
        self.session_id = session_id
        self._url = url
        self._token = token
        self._settings = settings or load_settings()
        self._socket: ClientConnection | None = None
        self._session = Session(self._settings, time.monotonic())
        self._pending: dict[str, _Pending] = {}
        self._reader: asyncio.Task[None] | None = None

    @property
    def state(self) -> SessionState:
        """The state of the session."""
        return self._session.state

    async def __aenter__(self) -> Client:
        await self._open_session()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._socket is not None:
            await self._socket.close()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])

    async def ask(
        self, text: str, *, intent: str | None = None, request_id: str | None = None, stream: bool = True
    ) -> AsyncIterator[Received]:
        """Send a query and yield its frames as they arrive; the last one is ``Done`` or ``Error``.

        Raises ``TransportError`` when reconnecting fails, ``TransportTimeoutError`` when no frame arrives in time.
        """
        if self._reader is None or self._reader.done():
            await self._reopen_session()
        query = Query(text, intent, request_id or uuid.uuid4().hex, stream)
        assert query.request_id is not None
        pending = _Pending(query, time.monotonic(), asyncio.Queue(_QUEUED_FRAMES))
        self._pending[query.request_id] = pending
        self._session.query_started(time.monotonic())
        try:
            await self._send(query)
            async for received in self._frames_of(pending):
                yield received
        finally:
            del self._pending[query.request_id]
            if self._session.state is not SessionState.DISCONNECTED:
                self._session.query_ended(time.monotonic())

    async def answer(
        self, text: str, *, intent: str | None = None, request_id: str | None = None, stream: bool = True
    ) -> Reply:
        """Send a query and wait for its complete answer; raises as :meth:`ask` does."""
        reply = Reply(request_id or uuid.uuid4().hex)
        async for received in self.ask(text, intent=intent, request_id=reply.request_id, stream=stream):
            reply.frames.append(received)
            match received.frame:
                case Chunk() as chunk:
                    reply.text += chunk.text
                    if reply.first_token_ms is None:
                        reply.first_token_ms = received.at_ms
                case Done() as done:
                    reply.metadata = done.metadata
                case Error() as error:
                    reply.error = error
        reply.total_ms = reply.frames[-1].at_ms
        return reply

    async def ping(self) -> None:
        """Keep the session from becoming idle."""
        await self._send(Ping())

    async def _frames_of(self, pending: _Pending) -> AsyncIterator[Received]:
        while True:
            received = await self._next(pending)
            if isinstance(received, MangaError):
                raise received
            yield received
            if isinstance(received.frame, Done | Error):
                return

    async def _next(self, pending: _Pending) -> Received | MangaError:
        """The next frame. After ``resume_after_silence_s`` without one the answer is resumed: its server may be gone."""
        timeout_s = self._settings.stream_timeout_s + self._settings.send_timeout_s
        silence_s = self._settings.resume_after_silence_s
        until_s = time.monotonic() + timeout_s
        while (left_s := until_s - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, silence_s)):
                    return await pending.frames.get()
            if left_s > silence_s and self._session.state is SessionState.STREAMING:
                assert pending.query.request_id is not None
                await self._send(Resume(pending.query.request_id, pending.last_seq))
        raise TransportTimeoutError(f"no frame from the gateway for {timeout_s:g} s")

    # The connection

    async def _open_session(self) -> None:
        self._session = Session(self._settings, time.monotonic())
        self._socket = await self._connect()
        now_s = time.monotonic()
        self._session.connected(now_s)
        self._session.authenticated(now_s)
        self._reader = asyncio.create_task(self._read())

    async def _reopen_session(self) -> None:
        """The connection was lost while no answer ran: reconnect with the same attempts and back-off as during one."""
        problem: MangaError | None = None
        for pause_s in self._pauses():
            try:
                return await self._open_session()
            except (TransportError, BusyError) as error:
                log.info("reconnecting failed: %s", error)
                problem = error
            await asyncio.sleep(pause_s)
        assert problem is not None
        raise problem

    async def _connect(self) -> ClientConnection:
        url = self._url + (f"?{urlencode({'session': self.session_id})}" if self.session_id else "")
        try:
            return await connect(
                url,
                additional_headers={"Authorization": f"Bearer {self._token}"},
                compression=None,
                ping_interval=None,
                open_timeout=self._settings.connect_timeout_s,
                close_timeout=1,
                max_size=self._settings.max_message_bytes,
                proxy=None,
            )
        except InvalidStatus as refused:
            status = refused.response.status_code
            if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
                raise AuthError(
                    f"the gateway refused the connection with {status}: is the token still valid?"
                ) from None
            if status == HTTPStatus.TOO_MANY_REQUESTS:
                raise BusyError("the gateway has reached its limit of connections; try again later") from None
            raise TransportError(f"the gateway refused the connection with {status}; expected 101") from None
        except (OSError, TimeoutError, InvalidHandshake) as error:
            raise TransportError(f"no connection to the gateway: {error}") from error

    async def _read(self) -> None:
        while True:
            assert self._socket is not None
            try:
                async for message in self._socket:
                    await self._dispatch(message)
                reason = f"closed with {self._socket.close_code}"
            except ConnectionClosed as closed:
                reason = str(closed)
            self._session.network_error(time.monotonic())
            if not self._pending:
                return
            if not await self._reconnect():
                self._fail_pending(TransportError(f"the connection was lost ({reason}) and reconnecting failed"))
                return

    async def _reconnect(self) -> bool:
        for pause_s in self._pauses():
            await asyncio.sleep(pause_s)
            try:
                self._socket = await self._connect()
                self._session.reconnected(time.monotonic())
                for request_id, pending in self._pending.items():
                    self._session.query_started(time.monotonic())
                    await self._send(Resume(request_id, pending.last_seq))
                return True
            except (TransportError, BusyError) as error:
                log.info("reconnecting failed: %s", error)
                if self._session.state is not SessionState.RECONNECTING:
                    self._session.network_error(time.monotonic())
                self._session.retry_failed(time.monotonic())
            except AuthError as error:
                self._fail_pending(error)
                return True
        return False

    def _pauses(self) -> Iterator[float]:
        """One pause in seconds for each attempt that is allowed."""
        settings = self._settings
        pauses = backoff_pauses(settings.reconnect_backoff_ms / 1000, settings.reconnect_backoff_max_ms / 1000)
        return islice(pauses, settings.reconnect_attempts)

    async def _send(self, message: ClientMessage) -> None:
        assert self._socket is not None
        text = encode(message).decode()
        size = self._settings.max_frame_bytes // _UTF8_BYTES_MAX
        try:
            if len(text) <= size:
                await self._socket.send(text)
            else:
                await self._socket.send([text[at : at + size] for at in range(0, len(text), size)])
        except ConnectionClosed as closed:
            # The reader task notices too, reconnects and resumes what is pending.
            log.info("message not sent, the connection was lost: %s", closed)

    async def _dispatch(self, message: str | bytes) -> None:
        try:
            frame = parse_server_frame(message)
        except BadRequestError as error:
            self._fail_pending(TransportError(str(error), answered=True))
            return
        now_s = time.monotonic()
        if isinstance(frame, SessionInfo):
            self.session_id = frame.session_id
            return
        pending = self._pending.get(getattr(frame, "request_id", None) or "")
        if pending is None:
            log.debug("ignored a %s frame that belongs to no pending query", type(frame).__name__)
            return
        if isinstance(frame, Error) and frame.code == "not_found" and pending.last_seq < 0 and not pending.resent:
            # The connection was lost before the query arrived, so the server does not know it.
            pending.resent = True
            await self._send(pending.query)
            return
        if isinstance(frame, Error) and frame.code == "going_away" and self._socket is not None:
            pending.redirects += 1
            if pending.redirects <= self._settings.reconnect_attempts:
                # On the next connection another server resumes the answer, or gets the query anew if none had started.
                pending.resent = False
                await self._socket.close()
                return
        seq = getattr(frame, "seq", None)
        if seq is not None:
            if seq <= pending.last_seq:
                return
            pending.last_seq = seq
        await pending.frames.put(Received(round((now_s - pending.sent_s) * 1000, 3), frame))

    def _fail_pending(self, error: MangaError) -> None:
        for pending in self._pending.values():
            if pending.frames.full():
                pending.frames.get_nowait()
            pending.frames.put_nowait(error)
