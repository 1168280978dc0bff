"""Streaming manager: one answer's state, as a pure machine. Model events in, text for frames out; no I/O, no clock.

    initializing -> waiting_first_token -> streaming -> completed
          \\                 \\                 \\------> error, cancelled

Times are passed in, in ms since the query was received.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from mangalib.aws import ModelEvent


class StreamState(StrEnum):
    """Where an answer is in its life; the last three are final."""

    INITIALIZING = "initializing"
    WAITING_FIRST_TOKEN = "waiting_first_token"
    STREAMING = "streaming"
    COMPLETED = "completed"
    ERROR = "error"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing follows."""
        return self in {StreamState.COMPLETED, StreamState.ERROR, StreamState.CANCELLED}


_ALLOWED = {
    StreamState.INITIALIZING: {
        StreamState.WAITING_FIRST_TOKEN,
        StreamState.STREAMING,
        StreamState.ERROR,
        StreamState.CANCELLED,
    },
    StreamState.WAITING_FIRST_TOKEN: {
        StreamState.WAITING_FIRST_TOKEN,
        StreamState.STREAMING,
        StreamState.COMPLETED,
        StreamState.ERROR,
        StreamState.CANCELLED,
    },
    StreamState.STREAMING: {StreamState.COMPLETED, StreamState.ERROR, StreamState.CANCELLED},
}


@dataclass
class StreamMetrics:
    """What one answer cost and took. ``tokens`` are the model's own count, never the number of deltas."""

    first_token_ms: float | None = None
    total_ms: float | None = None
    tokens: int = 0
    input_tokens: int = 0
    deltas: int = 0
    chunks_sent: int = 0
    bytes_sent: int = 0
    attempts: int = 0
    errors: list[str] = field(default_factory=list)


class StreamMachine:
    """Collects an answer's text and says when a piece of it should leave.

    The first text leaves at once. Later text waits while a send is under way, or until ``batch_size`` deltas have come;
    the rest leaves when the answer ends, however it ends. ``shown`` is text that the client has from before, in which
    case nothing is a first token any more. ``buffered`` holds everything back until the end, to show what that costs.
    """

    def __init__(self, *, batch_size: int, shown: str = "", buffered: bool = False) -> None:
        self.state = StreamState.INITIALIZING
        self.metrics = StreamMetrics()
        self.taken = shown
        self.stop_reason: str | None = None
        self.finished_by_model = False
        self._batch_size = batch_size
        self._buffered = buffered
        self._pending: list[str] = []
        self._first_has_left = bool(shown)
        # A continuation may repeat the white space that its prompt was not allowed to end with.
        self._overlap = shown[len(shown.rstrip()) :]

    @property
    def text(self) -> str:
        """The whole text so far; ``taken`` is what of it has left."""
        return self.taken + "".join(self._pending)

    @property
    def has_text(self) -> bool:
        """Whether any text came from the model: from then on nothing is tried again."""
        return self.metrics.deltas > 0

    def invoked(self) -> None:
        """A model was asked: again for a second attempt, or to go on with a text whose maker is gone."""
        if self.state is StreamState.STREAMING:
            self._overlap = self.text[len(self.text.rstrip()) :]
        else:
            self._enter(StreamState.WAITING_FIRST_TOKEN)
        self.metrics.attempts += 1

    def receive(self, events: Iterable[ModelEvent], now_ms: float) -> None:
        """Take events in the order in which they came; unknown types are ignored."""
        for event in events:
            match event.type:
                case "content_block_delta":
                    if event.delta is not None and event.delta.text:
                        self.receive_text(event.delta.text, now_ms)
                case "message_start":
                    if event.message is not None:
                        self.metrics.input_tokens += event.message.usage.input_tokens
                case "message_delta":
                    if event.usage is not None:
                        self.metrics.tokens += event.usage.output_tokens
                    if event.delta is not None:
                        self.stop_reason = event.delta.stop_reason
                case "message_stop":
                    self.finished_by_model = True

    def receive_text(self, text: str, now_ms: float) -> None:
        """Take one delta, or an answer that was made before."""
        if self._overlap:
            text = self._without_overlap(text)
            if not text:
                return
        if self.metrics.first_token_ms is None:
            self.metrics.first_token_ms = now_ms
        if self.state is not StreamState.STREAMING:
            self._enter(StreamState.STREAMING)
        self.metrics.deltas += 1
        self._pending.append(text)

    def take(self) -> str | None:
        """The text that should leave now that nothing is being sent; ``None`` when it is better to wait."""
        if not self._pending:
            return None
        batch_size = self._batch_size if self._first_has_left else 1
        if not self.state.final and (self._buffered or len(self._pending) < batch_size):
            return None
        text = "".join(self._pending)
        self._pending.clear()
        self.taken += text
        self._first_has_left = True
        return text

    def sent(self, size_bytes: int) -> None:
        """A chunk of ``size_bytes`` has left."""
        self.metrics.chunks_sent += 1
        self.metrics.bytes_sent += size_bytes

    def complete(self, now_ms: float) -> None:
        """The answer is whole."""
        self._end(StreamState.COMPLETED, now_ms)

    def fail(self, error: str, now_ms: float) -> None:
        """The answer ends here; what it had is kept."""
        self.metrics.errors.append(error)
        self._end(StreamState.ERROR, now_ms)

    def cancel(self, now_ms: float) -> None:
        """Nobody is listening any more."""
        self._end(StreamState.CANCELLED, now_ms)

    def _end(self, state: StreamState, now_ms: float) -> None:
        self._enter(state)
        self.metrics.total_ms = now_ms

    def _enter(self, state: StreamState) -> None:
        if state not in _ALLOWED.get(self.state, ()):
            raise ValueError(f"an answer cannot go from {self.state} to {state}")
        self.state = state

    def _without_overlap(self, text: str) -> str:
        while self._overlap and text and text[0] == self._overlap[0]:
            text, self._overlap = text[1:], self._overlap[1:]
        if text:
            self._overlap = ""
        return text
