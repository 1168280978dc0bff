"""Bedrock runtime: Claude's answers as a stream of typed events, over a connection from the warm pool."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from mangalib.aws.adaptive_rate import AdaptiveRate
from mangalib.aws.connection_pool import WarmPool
from mangalib.aws.event_stream import EventStreamDecoder
from mangalib.aws.event_stream import Message as EventMessage
from mangalib.aws.http1 import Endpoint, HttpConnection
from mangalib.aws.signing import Signer, path_segment
from mangalib.errors import BedrockError, TransportError
from mangalib.resilience import CircuitBreaker, RetryBudget
from mangalib.settings import Settings

SIGNING_NAME = "bedrock"


class Turn(msgspec.Struct, frozen=True):
    """One message of a conversation; ``role`` is ``user`` or ``assistant``."""

    role: str
    content: str


class ClaudeRequest(msgspec.Struct, omit_defaults=True, frozen=True):
    """Body of an invocation of Claude 3. A last turn of the assistant is text it has already said and goes on from."""

    max_tokens: int
    messages: list[Turn]
    system: str = ""
    # Required by the service, so it must not be left out as a default.
    anthropic_version: str | msgspec.UnsetType = msgspec.UNSET


class Delta(msgspec.Struct, frozen=True):
    """What an event adds: text, or at the end the reason for stopping."""

    text: str = ""
    stop_reason: str | None = None


class Usage(msgspec.Struct, frozen=True):
    """Tokens as the model counts them."""

    input_tokens: int = 0
    output_tokens: int = 0


class MessageStart(msgspec.Struct, frozen=True):
    """The head of an answer, with the tokens of the question."""

    usage: Usage


class InvocationMetrics(msgspec.Struct, rename="camel", frozen=True):
    """The service's own account of an invocation, in its last event; latencies in ms."""

    input_token_count: int = 0
    output_token_count: int = 0
    invocation_latency: float = 0
    first_byte_latency: float = 0


class ModelEvent(msgspec.Struct, frozen=True):
    """One event of Claude's stream. Fields are set as its ``type`` has them; unknown types are to be ignored.

    ``local_sent_at_s`` is the local stand-in's stamp: its monotonic clock when the event left. The cloud has none.
    """

    type: str
    delta: Delta | None = None
    message: MessageStart | None = None
    usage: Usage | None = None
    metrics: InvocationMetrics | None = msgspec.field(default=None, name="amazon-bedrock-invocationMetrics")
    local_sent_at_s: float | None = None


class _ChunkPayload(msgspec.Struct):
    data: bytes = msgspec.field(name="bytes")


class _Embedding(msgspec.Struct):
    embedding: list[float]


_chunk_decoder = msgspec.json.Decoder(_ChunkPayload)
_event_decoder = msgspec.json.Decoder(ModelEvent)


class BedrockRuntime:
    """Invokes models. One per process; safe for any number of concurrent streams."""

    def __init__(self, pool: WarmPool, signer: Signer, endpoint: Endpoint, settings: Settings) -> None:
        self._pool = pool
        self._signer = signer
        self._endpoint = endpoint
        self._read_timeout_s = settings.read_timeout_s
        self._connect_timeout_s = settings.connect_timeout_s
        self._rate = AdaptiveRate(settings.throttled_rate_min_per_s)
        self._settings = settings
        self._breakers: dict[str, CircuitBreaker] = {}
        self._retries = RetryBudget(settings.retry_share, settings.retry_burst)

    def breaker(self, model_id: str) -> CircuitBreaker:
        """Each model has its own: one that is down does not take the others with it."""
        return self._breakers.setdefault(model_id, CircuitBreaker.from_settings(model_id, self._settings))

    def may_retry(self) -> bool:
        """Whether one more request may be made for an answer that failed; the allowance is counted down."""
        return self._retries.withdraw()

    @asynccontextmanager
    async def stream(self, model_id: str, request: ClaudeRequest, *, warm: bool = True) -> AsyncIterator[ModelStream]:
        """Invoke with a response stream; leaving the block early closes the connection, which stops the generation.

        Not ``warm``, over a new connection: only to measure what that costs.

        Raises ``BusyError``, ``BedrockError`` or ``TransportError``; nothing is retried here. After
        ``breaker_failures`` of a model in a row it is not asked for ``breaker_pause_s`` (``DependencyDownError``).
        """
        with self.breaker(model_id).watch(_is_outage):
            async with self._connection(warm) as connection:
                await self._post(connection, model_id, "invoke-with-response-stream", _claude_body(request))
                yield ModelStream(connection, self._read_timeout_s)

    async def answer(self, model_id: str, request: ClaudeRequest) -> bytes:
        """Invoke Claude and wait for its whole answer, as JSON. Raises as :meth:`stream` does."""
        return await self._invoke(model_id, _claude_body(request))

    async def embed(self, model_id: str, text: str, *, dimensions: int, warm: bool = True) -> list[float]:
        """The embedding of ``text``, normalised, of shape ``(dimensions,)``. Raises as :meth:`stream` does."""
        body = msgspec.json.encode({"inputText": text, "dimensions": dimensions, "normalize": True})
        return msgspec.json.decode(await self._invoke(model_id, body, warm=warm), type=_Embedding).embedding

    async def _invoke(self, model_id: str, body: bytes, *, warm: bool = True) -> bytes:
        with self.breaker(model_id).watch(_is_outage):
            async with self._connection(warm) as connection:
                await self._post(connection, model_id, "invoke", body)
                return await connection.read_all(timeout_s=self._read_timeout_s)

    @asynccontextmanager
    async def _connection(self, warm: bool) -> AsyncIterator[HttpConnection]:
        if warm:
            async with self._pool.lease() as connection:
                yield connection
            return
        connection = await HttpConnection.open(self._endpoint, timeout_s=self._connect_timeout_s)
        try:
            yield connection
        finally:
            connection.close()

    async def _post(self, connection: HttpConnection, model_id: str, operation: str, body: bytes) -> None:
        target = f"{self._endpoint.path}/model/{path_segment(model_id)}/{operation}"
        headers = {"Content-Type": "application/json"}
        self._retries.deposit()
        await asyncio.sleep(self._rate.wait_s())
        signed = self._signer.sign(SIGNING_NAME, self._endpoint, "POST", target, body, headers)
        status = await connection.send("POST", target, signed, body, timeout_s=self._read_timeout_s)
        self._rate.answered(throttled=status == 429)
        if status != 200:
            raise await _refusal(connection, status, self._read_timeout_s)


class ModelStream:
    """The events of one answer, in the groups in which they arrived: one wake-up a read, not one an event."""

    def __init__(self, connection: HttpConnection, read_timeout_s: float) -> None:
        self._connection = connection
        self._read_timeout_s = read_timeout_s
        self._decoder = EventStreamDecoder()

    async def __aiter__(self) -> AsyncGenerator[list[ModelEvent], None]:
        """Yields non-empty lists of events until the stream ends.

        Raises ``BedrockError`` on an exception in the stream, after the events before it; ``TransportError`` when the
        stream is cut or its bytes are wrong.
        """
        while data := await self._connection.read(timeout_s=self._read_timeout_s):
            events: list[ModelEvent] = []
            failure: BedrockError | None = None
            for message in self._decoder.feed(data):
                if message.headers.get(":message-type") == "event":
                    events += _event_of(message)
                else:
                    failure = _exception_of(message)
                    break
            if events:
                yield events
            if failure is not None:
                self._connection.close()
                raise failure
        if self._decoder.incomplete:
            raise TransportError("the event stream ended within a message", answered=True)


def _is_outage(error: Exception) -> bool:
    # A throttled model is not down: the adaptive rate slows its requests instead.
    if isinstance(error, BedrockError):
        return error.retryable and error.name != "ThrottlingException"
    return isinstance(error, TransportError)


def _claude_body(request: ClaudeRequest) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(request, anthropic_version="bedrock-2023-05-31"))


def _event_of(message: EventMessage) -> list[ModelEvent]:
    if message.headers.get(":event-type") != "chunk":
        return []
    try:
        return [_event_decoder.decode(_chunk_decoder.decode(message.payload).data)]
    except msgspec.MsgspecError as error:
        raise TransportError(f"an event of the model is not what it should be: {error}", answered=True) from None


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


def bedrock_endpoint(settings: Settings) -> Endpoint:
    """Where the runtime answers: the configured URL, or AWS's own for the region."""
    url = settings.bedrock_url or f"https://bedrock-runtime.{settings.region}.amazonaws.com"
    return Endpoint.from_url(url, ca_file=str(settings.bedrock_ca) if settings.bedrock_ca else None)


def bedrock_pool(endpoint: Endpoint, settings: Settings, *, background: bool = False) -> WarmPool:
    """The warm pool of the runtime; for ``background`` work a small one of its own, so that it never has what a query needs.
    Its keep-alive is an unsigned ``GET /``: answered by an error, billed nothing."""

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


def continuing(request: ClaudeRequest, text: str) -> ClaudeRequest:
    """The same request with ``text`` as what the model has said so far; it may not end in white space."""
    said = text.rstrip()
    if not said:
        return request
    return msgspec.structs.replace(request, messages=[*request.messages, Turn("assistant", said)])
