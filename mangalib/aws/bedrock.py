"""Our own model transport: Bedrock runtime over pooled HTTP/1.1 connections, replies as typed events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Protocol

import msgspec

from mangalib.aws.adaptive_rate import AdaptiveRate
from mangalib.aws.connection_pool import WarmPool
from mangalib.aws.event_stream import EventStreamDecoder
from mangalib.aws.event_stream import Message as EventMessage
from mangalib.aws.http1 import Endpoint, HttpConnection
from mangalib.aws.model_messages import ClaudeRequest, ModelEvent, ModelRequest
from mangalib.aws.signing import Signer, path_segment
from mangalib.errors import BedrockError, TransportError
from mangalib.resilience import CircuitBreaker
from mangalib.settings import AddressSettings, PoolSettings, TimeoutSettings, TransportSettings

SIGNING_NAME = "bedrock"


class Connections(Protocol):
    """Where a request gets its connection from."""

    def lease(self) -> AbstractAsyncContextManager[HttpConnection]:
        """A connection for the length of the block."""
        ...


class FreshConnections:
    """A new connection for each request: only to measure what that costs."""

    def __init__(self, endpoint: Endpoint, settings: TimeoutSettings) -> None:
        self._endpoint = endpoint
        self._timeout_s = settings.connect_timeout_s

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[HttpConnection]:
        """Opened at the start of the block, closed at its end."""
        connection = await HttpConnection.open(self._endpoint, timeout_s=self._timeout_s)
        try:
            yield connection
        finally:
            connection.close()


class _ChunkPayload(msgspec.Struct):
    data: bytes = msgspec.field(name="bytes")


_chunk_decoder = msgspec.json.Decoder(_ChunkPayload)
_event_decoder = msgspec.json.Decoder(ModelEvent)


class BedrockRuntime:
    """The model transport of the product (:class:`ModelTransport`). One per process; safe for any number of streams at once.

    After ``breaker_failures`` of a model in a row it is not asked for ``breaker_pause_s`` (``DependencyDownError``).
    """

    def __init__(
        self, connections: Connections, signer: Signer, endpoint: Endpoint, settings: TransportSettings
    ) -> None:
        self._connections = connections
        self._signer = signer
        self._endpoint = endpoint
        self._read_timeout_s = settings.read_timeout_s
        self._rate = AdaptiveRate(settings.throttled_rate_min_per_s)
        self._settings = settings
        self._breakers: dict[str, CircuitBreaker] = {}

    def breaker(self, model_id: str) -> CircuitBreaker:
        """Each model has its own, so that one that is down does not block the others."""
        return self._breakers.setdefault(model_id, CircuitBreaker.from_settings(model_id, self._settings))

    @asynccontextmanager
    async def stream(self, model_id: str, request: ClaudeRequest) -> AsyncIterator[AsyncIterator[list[ModelEvent]]]:
        """Invoke with a response stream; leaving the block early closes the connection, which stops the generation."""
        with self.breaker(model_id).watch(_is_outage):
            async with self._connections.lease() as connection:
                await self._post(connection, model_id, "invoke-with-response-stream", request.body())
                async with aclosing(_events_of(connection, self._read_timeout_s)) as events:
                    yield events

    async def invoke(self, model_id: str, request: ModelRequest) -> bytes:
        """Invoke and wait for the whole answer, as JSON."""
        with self.breaker(model_id).watch(_is_outage):
            async with self._connections.lease() as connection:
                await self._post(connection, model_id, "invoke", request.body())
                return await connection.read_all(timeout_s=self._read_timeout_s)

    async def _post(self, connection: HttpConnection, model_id: str, operation: str, body: bytes) -> None:
        target = f"{self._endpoint.path}/model/{path_segment(model_id)}/{operation}"
        headers = {"Content-Type": "application/json"}
        await asyncio.sleep(self._rate.wait_s())
        signed = self._signer.sign(SIGNING_NAME, self._endpoint, "POST", target, body, headers)
        status = await connection.send("POST", target, signed, body, timeout_s=self._read_timeout_s)
        self._rate.answered(throttled=status == 429)
        if status != 200:
            raise await _refusal(connection, status, self._read_timeout_s)


async def _events_of(connection: HttpConnection, read_timeout_s: float) -> AsyncGenerator[list[ModelEvent], None]:
    """Non-empty groups of events until the stream ends: one wake-up a read, not one an event.

    Raises ``BedrockError`` on an exception in the stream, after the events before it; ``TransportError`` when the stream is
    cut or its bytes are wrong.
    """
    decoder = EventStreamDecoder()
    while data := await connection.read(timeout_s=read_timeout_s):
        events: list[ModelEvent] = []
        failure: BedrockError | None = None
        for message in decoder.feed(data):
            if message.headers.get(":message-type") == "event":
                events += _event_of(message)
            else:
                failure = _exception_of(message)
                break
        if events:
            yield events
        if failure is not None:
            connection.close()
            raise failure
    if decoder.incomplete:
        raise TransportError("event stream: ended in the middle of a message", answered=True)


def _is_outage(error: Exception) -> bool:
    # A throttled model is not down: the adaptive rate slows its requests instead.
    if isinstance(error, BedrockError):
        return error.retryable and error.name != "ThrottlingException"
    return isinstance(error, TransportError)


def _event_of(message: EventMessage) -> list[ModelEvent]:
    if message.headers.get(":event-type") != "chunk":
        return []
    try:
        return [_event_decoder.decode(_chunk_decoder.decode(message.payload).data)]
    except msgspec.MsgspecError as error:
        raise TransportError(f"model event: {error}", answered=True) from None


def _exception_of(message: EventMessage) -> BedrockError:
    name = message.headers.get(":exception-type") or message.headers.get(":error-code") or "UnknownException"
    text = _message_in(message.payload) or message.headers.get(":error-message", "")
    return BedrockError(name[:1].upper() + name[1:], text, status=200)


async def _refusal(connection: HttpConnection, status: int, timeout_s: float) -> BedrockError:
    # The type may carry a namespace behind a colon: ValidationException:http://internal.amazon.com/...
    name = connection.headers.get("x-amzn-errortype", "UnknownException").split(":")[0]
    return BedrockError(name, _message_in(await connection.read_all(timeout_s=timeout_s)), status=status)


def _message_in(body: bytes) -> str:
    try:
        decoded = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return body[:200].decode("utf-8", "replace")
    return str(decoded.get("message", "")) if isinstance(decoded, dict) else ""


def bedrock_endpoint(settings: AddressSettings) -> Endpoint:
    """The configured URL, or AWS's own for the region."""
    url = settings.bedrock_url or f"https://bedrock-runtime.{settings.region}.amazonaws.com"
    return Endpoint.from_url(url, ca_file=str(settings.bedrock_ca) if settings.bedrock_ca else None)


def bedrock_pool(endpoint: Endpoint, settings: PoolSettings, *, background: bool = False) -> WarmPool:
    """The warm pool of the runtime, or a small separate one for ``background`` work, so that queries never wait for it.

    The keep-alive is an unsigned ``GET /``, which is answered by an error and costs nothing.
    """

    async def keep_alive(connection: HttpConnection) -> None:
        await connection.send("GET", "/", {}, b"", timeout_s=settings.connect_timeout_s)
        await connection.read_all(timeout_s=settings.connect_timeout_s)

    return WarmPool(
        lambda: HttpConnection.open(endpoint, timeout_s=settings.connect_timeout_s),
        size=settings.background_pool_size if background else settings.pool_size,
        max_size=settings.background_pool_size if background else settings.pool_max_size,
        acquire_timeout_s=settings.acquire_timeout_s,
        shrink_after_s=settings.pool_shrink_after_s,
        keep_alive_s=settings.keep_alive_s,
        keep_alive=keep_alive,
    )
