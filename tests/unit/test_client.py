"""The client against a server that misbehaves on purpose."""

from __future__ import annotations

import http
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.server import Request, Response, ServerConnection, serve

from mangalib.client import Client
from mangalib.errors import AuthError, BusyError, MangaError, TransportError, TransportTimeoutError
from mangalib.protocol.session import SessionState
from mangalib.settings import load_settings

QUICK = load_settings().model_copy(
    update={"reconnect_backoff_ms": 5, "reconnect_backoff_max_ms": 20, "stream_timeout_s": 0.2, "send_timeout_s": 0.1}
)


class Server:
    """Accepts one connection, then responds to all others with ``refusal``; counts the attempts."""

    def __init__(self, refusal: http.HTTPStatus | None = None) -> None:
        self.refusal = refusal
        self.attempts = 0
        self.talk: Callable[[ServerConnection, dict[str, object]], object] = self.drop
        self.url = ""

    async def drop(self, socket: ServerConnection, message: dict[str, object]) -> None:
        socket.transport.abort()

    def admit(self, socket: ServerConnection, request: Request) -> Response | None:
        self.attempts += 1
        if self.attempts > 1 and self.refusal is not None:
            return socket.respond(self.refusal, "no")
        return None

    async def handle(self, socket: ServerConnection) -> None:
        async for message in socket:
            await self.talk(socket, json.loads(message))


@asynccontextmanager
async def running(refusal: http.HTTPStatus | None = None) -> AsyncIterator[Server]:
    server = Server(refusal)
    async with serve(server.handle, "127.0.0.1", 0, process_request=server.admit) as listener:
        server.url = f"ws://127.0.0.1:{next(iter(listener.sockets)).getsockname()[1]}/"
        yield server


async def test_after_three_failed_attempts_to_reconnect_it_raises() -> None:
    async with (
        running(http.HTTPStatus.SERVICE_UNAVAILABLE) as server,
        Client(server.url, "t", settings=QUICK) as client,
    ):
        with pytest.raises(TransportError, match="reconnecting failed"):
            await client.answer("hello")
        assert server.attempts == 1 + QUICK.reconnect_attempts
        assert client.state is SessionState.DISCONNECTED


@pytest.mark.parametrize(
    ("status", "error"), [(http.HTTPStatus.UNAUTHORIZED, AuthError), (http.HTTPStatus.FORBIDDEN, AuthError)]
)
async def test_an_expired_token_is_not_retried(status: http.HTTPStatus, error: type[MangaError]) -> None:
    async with running(status) as server, Client(server.url, "t", settings=QUICK) as client:
        with pytest.raises(error, match="token"):
            await client.answer("hello")
        assert server.attempts == 2


async def test_a_full_gateway_is_busy() -> None:
    async with running(http.HTTPStatus.TOO_MANY_REQUESTS) as server:
        server.attempts = 1
        with pytest.raises(BusyError):
            await Client(server.url, "t", settings=QUICK).__aenter__()


async def test_a_silent_server_is_a_time_out() -> None:
    async def silence(socket: ServerConnection, message: dict[str, object]) -> None:
        return

    async with running() as server, Client(server.url, "t", settings=QUICK) as client:
        server.talk = silence
        with pytest.raises(TransportTimeoutError, match=r"no frame from the gateway for 0\.3"):
            await client.answer("hello")


async def test_a_frame_of_unknown_type_is_an_error() -> None:
    async def nonsense(socket: ServerConnection, message: dict[str, object]) -> None:
        await socket.send('{"type": "surprise"}')

    async with running() as server, Client(server.url, "t", settings=QUICK) as client:
        server.talk = nonsense
        with pytest.raises(TransportError, match="server frame: "):
            await client.answer("hello")


async def test_duplicate_frames_are_ignored_and_so_are_unknown_fields() -> None:
    async def stutter(socket: ServerConnection, message: dict[str, object]) -> None:
        for seq, text in ((0, "One "), (0, "One "), (1, "Piece"), (0, "One ")):
            chunk = {"type": "chunk", "text": text, "seq": seq, "request_id": message["request_id"], "new": 1}
            await socket.send(json.dumps(chunk))
        error = {"type": "error", "code": "timeout", "message": "late", "request_id": message["request_id"], "seq": 2}
        await socket.send(json.dumps(error))

    async with running() as server, Client(server.url, "t", settings=QUICK) as client:
        server.talk = stutter
        reply = await client.answer("hello")
    assert reply.text == "One Piece"
    assert reply.error is not None
    assert reply.error.code == "timeout"


async def test_a_query_that_did_not_arrive_is_sent_again_once() -> None:
    heard: list[str] = []

    async def forgetful(socket: ServerConnection, message: dict[str, object]) -> None:
        heard.append(str(message["action"]))
        error = {"type": "error", "code": "not_found", "message": "?", "request_id": message["request_id"]}
        if len(heard) == 1:
            socket.transport.abort()
        else:
            await socket.send(json.dumps(error))

    async with running() as server, Client(server.url, "t", settings=QUICK) as client:
        server.talk = forgetful
        reply = await client.answer("hello")
    assert heard == ["query", "resume", "query"]
    assert reply.error is not None
