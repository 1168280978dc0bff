"""What is said to a model and what comes back: request bodies, stream events, and a reply put together from its events."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from mangalib.errors import TransportError

ANTHROPIC_VERSION = "bedrock-2023-05-31"


class Turn(msgspec.Struct, frozen=True):
    """One message of a conversation; ``role`` is ``user`` or ``assistant``."""

    role: str
    content: str


class ClaudeRequest(msgspec.Struct, omit_defaults=True, frozen=True):
    """Body of an invocation of Claude 3. A last turn of the assistant is text it has already said and continues from."""

    max_tokens: int
    messages: list[Turn]
    system: str = ""
    # Required by the service, so it must not be left out as a default.
    anthropic_version: str | msgspec.UnsetType = msgspec.UNSET

    def body(self) -> bytes:
        """As it goes over the wire."""
        return msgspec.json.encode(msgspec.structs.replace(self, anthropic_version=ANTHROPIC_VERSION))


class EmbeddingRequest(msgspec.Struct, rename="camel", frozen=True):
    """Body of an invocation of Titan Text Embeddings V2."""

    input_text: str
    dimensions: int
    normalize: bool = True

    def body(self) -> bytes:
        """As it goes over the wire."""
        return msgspec.json.encode(self)


class Embedding(msgspec.Struct, frozen=True):
    """The answer to an :class:`EmbeddingRequest`: a vector of shape ``(dimensions,)``."""

    embedding: list[float]


ModelRequest = ClaudeRequest | EmbeddingRequest


def continuing(request: ClaudeRequest, text: str) -> ClaudeRequest:
    """The same request with ``text`` as what the model has said so far; a prefill must not end in white space."""
    said = text.rstrip()
    if not said:
        return request
    return msgspec.structs.replace(request, messages=[*request.messages, Turn("assistant", said)])


class Delta(msgspec.Struct, frozen=True):
    """What an event adds: text, or at the end the reason for stopping."""

    text: str = ""
    stop_reason: str | None = None


class Usage(msgspec.Struct, frozen=True):
    """Tokens as the model counts them."""

    input_tokens: int = 0
    output_tokens: int = 0


class MessageStart(msgspec.Struct, frozen=True):
    """The start of a reply, with the tokens of the prompt."""

    usage: Usage


class ModelEvent(msgspec.Struct, frozen=True):
    """What is read of one event of Claude's stream; which fields are set depends on its ``type``. Unknown types are ignored."""

    type: str
    delta: Delta | None = None
    message: MessageStart | None = None
    usage: Usage | None = None

    @property
    def text(self) -> str:
        """The text that it adds."""
        return self.delta.text if self.delta is not None and self.type == "content_block_delta" else ""


class ModelReply:
    """Reads a reply's events. ``tokens`` are the model's own count, never the number of deltas; ``complete`` is set by its
    last event."""

    def __init__(self) -> None:
        self.tokens = 0
        self.input_tokens = 0
        self.stop_reason: str | None = None
        self.complete = False

    def receive(self, events: Iterable[ModelEvent]) -> list[str]:
        """Take events in the order in which they came; returns the pieces of text in them. Unknown types are ignored."""
        texts = []
        for event in events:
            match event.type:
                case "content_block_delta":
                    texts.append(event.text)
                case "message_start":
                    if event.message is not None:
                        self.input_tokens += event.message.usage.input_tokens
                case "message_delta":
                    if event.usage is not None:
                        self.tokens += event.usage.output_tokens
                    if event.delta is not None:
                        self.stop_reason = event.delta.stop_reason
                case "message_stop":
                    self.complete = True
        return [text for text in texts if text]

    def require_complete(self) -> None:
        """Once the stream is over: raises ``TransportError`` when its last event did not come."""
        if not self.complete:
            raise TransportError("the model's stream ended before its last event", answered=True)
