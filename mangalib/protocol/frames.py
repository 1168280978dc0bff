"""The frames of the WebSocket, in both directions, as typed records.

A frame is one JSON object. Unknown fields are ignored; an unknown action or type is an error.

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
    """A question. Without a ``request_id`` the server generates one; with an ``intent`` the classifier is skipped."""

    text: str
    intent: str | None = None
    request_id: str | None = None
    stream: bool = True


class Ping(msgspec.Struct, tag_field="action", tag="ping", frozen=True):
    """Keeps the session from becoming idle; answered by a ``pong``."""


class Disconnect(msgspec.Struct, tag_field="action", tag="disconnect", frozen=True):
    """The client ends the session: running answers stop at once."""


class Resume(msgspec.Struct, tag_field="action", tag="resume", frozen=True):
    """Send the frames after ``after`` again (-1: all) and continue the answer if it was cut off."""

    request_id: str
    after: int


ClientMessage = Query | Ping | Disconnect | Resume


class Status(msgspec.Struct, tag_field="type", tag="status", omit_defaults=True, frozen=True):
    """What is being done at the moment; ``intent`` is the classified intent. The texts are in ``domain/intents.py``."""

    state: str
    message: str
    request_id: str
    seq: int
    intent: str = ""


class Chunk(msgspec.Struct, tag_field="type", tag="chunk", frozen=True):
    """The next part of the answer's text."""

    text: str
    request_id: str
    seq: int


class Card(msgspec.Struct, tag_field="type", tag="card", frozen=True):
    """A title to show beside the answer's text; a later card with the same ``manga_id`` replaces it."""

    card: TitleCard | ProductCard
    request_id: str
    seq: int


class Done(msgspec.Struct, tag_field="type", tag="done", frozen=True):
    """The answer is complete. ``metadata`` has at least the fields of :class:`Metadata`."""

    metadata: Metadata
    request_id: str
    seq: int


class Metadata(msgspec.Struct, frozen=True):
    """Facts about a complete answer; times in ms since the query was received."""

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
    """An error. With a ``request_id`` it ends that answer; without, it reports an invalid frame.

    ``retry_after_ms`` is set where a retry after that time may succeed.
    """

    code: str
    message: str
    request_id: str | None = None
    seq: int | None = None
    retry_after_ms: int | None = None


class Pong(msgspec.Struct, tag_field="type", tag="pong", frozen=True):
    """The reply to a ``ping``."""


class SessionInfo(msgspec.Struct, tag_field="type", tag="session", frozen=True):
    """The session's id and state, sent after connecting and when the session becomes idle, active again or disconnected."""

    session_id: str
    state: str


ServerFrame = Status | Chunk | Card | Done | Error | Pong | SessionInfo

_server_decoder = msgspec.json.Decoder(ServerFrame)
encode = msgspec.json.Encoder().encode


def is_of(frame: bytes, kind: type) -> bool:
    """Whether an encoded frame is of that type; relies on the encoder writing the type first."""
    return frame.startswith(b'{"type":"' + kind.__name__.lower().encode() + b'"')


def parse_client_message(body: bytes) -> ClientMessage:
    """Decode one client message.

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
    """Decode one server frame; raises ``BadRequestError`` for an unknown type or a malformed body."""
    try:
        frame: ServerFrame = _server_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequestError(f"server frame: {error}; expected a frame of docs/protocol.md") from None
    return frame


def _explain(value: Any, error: msgspec.ValidationError) -> str:
    if not isinstance(value, dict):
        return f'the message is a JSON {type(value).__name__}; expected an object such as {{"action": "ping"}}'
    action = value.get("action")
    if action not in ("query", "ping", "disconnect", "resume"):
        return f"action: {str(action)[:40]!r}; expected query, ping, disconnect or resume"
    return f"{action}: {error}"
