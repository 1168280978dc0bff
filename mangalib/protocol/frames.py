"""Frames: what travels over the WebSocket, in both directions, as typed records.

JSON text, one object a frame. Unknown fields are ignored, an unknown action or type is an error.

>>> parse_client_message(b'{"action": "ping"}')
Ping()
"""

from __future__ import annotations

from typing import Any

import msgspec

from mangalib.errors import BadRequestError
from mangalib.protocol.cards import ProductCard, TitleCard

MAX_REQUEST_ID_CHARS = 128


class Query(msgspec.Struct, tag_field="action", tag="query", frozen=True):
    """A question. ``request_id`` is made by the server where the client gives none; ``intent`` skips the classifier."""

    text: str
    intent: str | None = None
    request_id: str | None = None
    stream: bool = True


class Ping(msgspec.Struct, tag_field="action", tag="ping", frozen=True):
    """Keeps the session from going idle; answered by a ``pong``."""


class Disconnect(msgspec.Struct, tag_field="action", tag="disconnect", frozen=True):
    """The client leaves for good: running answers stop at once."""


class Resume(msgspec.Struct, tag_field="action", tag="resume", frozen=True):
    """Send again what follows frame ``after`` of that answer, and go on with it if it was cut off (-1: from the start)."""

    request_id: str
    after: int


ClientMessage = Query | Ping | Disconnect | Resume


class Status(msgspec.Struct, tag_field="type", tag="status", omit_defaults=True, frozen=True):
    """What is being done right now, in words for the customer; ``intent`` is what the question was taken for."""

    state: str
    message: str
    request_id: str
    seq: int
    intent: str = ""


class Chunk(msgspec.Struct, tag_field="type", tag="chunk", frozen=True):
    """The next piece of the answer's text."""

    text: str
    request_id: str
    seq: int


class Card(msgspec.Struct, tag_field="type", tag="card", frozen=True):
    """A title of the answer to show beside its text; a later card of the same ``manga_id`` takes its place."""

    card: TitleCard | ProductCard
    request_id: str
    seq: int


class Done(msgspec.Struct, tag_field="type", tag="done", frozen=True):
    """The answer is whole. ``metadata`` holds at least the fields of :class:`Metadata`."""

    metadata: Metadata
    request_id: str
    seq: int


class Metadata(msgspec.Struct, frozen=True):
    """What is known about an answer once it is whole; times in ms since the query was received."""

    first_token_ms: float
    total_ms: float
    tokens: int
    input_tokens: int
    model_id: str
    intent: str
    source: str
    timeline: dict[str, float]
    attempts: int = 1
    release: int = 0
    degraded: list[str] = []


class Error(msgspec.Struct, tag_field="type", tag="error", omit_defaults=True, frozen=True):
    """What went wrong. With a ``request_id`` it ends that answer; without, it answers a frame that made no sense.
    ``retry_after_ms`` says when to ask again, where that would help."""

    code: str
    message: str
    request_id: str | None = None
    seq: int | None = None
    retry_after_ms: int | None = None


class Pong(msgspec.Struct, tag_field="type", tag="pong", frozen=True):
    """Answer to a ``ping``."""


class SessionInfo(msgspec.Struct, tag_field="type", tag="session", frozen=True):
    """The session's id and state, sent when the connection stands and when the state changes for good."""

    session_id: str
    state: str


ServerFrame = Status | Chunk | Card | Done | Error | Pong | SessionInfo

_server_decoder = msgspec.json.Decoder(ServerFrame)
encode = msgspec.json.Encoder().encode


def is_of(frame: bytes, kind: type) -> bool:
    """Whether an encoded frame is of that type; the encoder puts the type first."""
    return frame.startswith(b'{"type":"' + kind.__name__.lower().encode() + b'"')


def parse_client_message(body: bytes) -> ClientMessage:
    """Read one client message.

    Raises
    ------
    BadRequestError
        Not JSON, not an object, an unknown action, or a field that is missing or of the wrong type.
    """
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequestError('the message is not JSON; expected an object such as {"action": "ping"}') from None
    try:
        message: ClientMessage = msgspec.convert(value, ClientMessage)
    except msgspec.ValidationError as error:
        raise BadRequestError(_explain(value, error)) from None
    request_id = getattr(message, "request_id", None)
    if request_id is not None and not 0 < len(request_id) <= MAX_REQUEST_ID_CHARS:
        raise BadRequestError(f"request_id: {len(request_id)} characters; expected 1 to {MAX_REQUEST_ID_CHARS}")
    return message


def parse_server_frame(body: bytes | str) -> ServerFrame:
    """Read one server frame; raises ``BadRequestError`` on a type that is unknown or a body that is not a frame."""
    try:
        frame: ServerFrame = _server_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequestError(f"not a frame of this service: {error}") from None
    return frame


def _explain(value: Any, error: msgspec.ValidationError) -> str:
    if not isinstance(value, dict):
        return f'the message is a JSON {type(value).__name__}; expected an object such as {{"action": "ping"}}'
    action = value.get("action")
    if action not in ("query", "ping", "disconnect", "resume"):
        return f"action: {str(action)[:40]!r}; expected query, ping, disconnect or resume"
    return f"{action}: {error}"
