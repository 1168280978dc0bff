"""What is known of one answer: its state, its figures, and what another orchestrator needs to continue it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import msgspec

from mangalib.aws import ClaudeRequest
from mangalib.protocol import Chunk, Query, is_of


class StreamState(StrEnum):
    """Where an answer is in its life; the last three are final.

    initializing -> waiting_first_token -> streaming -> completed
          \\                 \\                 \\------> error, cancelled
    """

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


@dataclass
class StreamMetrics:
    """What one answer cost and took; times in ms since the question came. ``tokens`` are the model's own count."""

    first_token_ms: float | None = None
    total_ms: float | None = None
    tokens: int = 0
    input_tokens: int = 0
    chunks_sent: int = 0
    bytes_sent: int = 0
    attempts: int = 0
    errors: list[str] = field(default_factory=list)


class Plan(msgspec.Struct, frozen=True):
    """What the model is asked: enough to continue an answer that was cut off."""

    intent: str
    model_id: str
    request: ClaudeRequest


class AnswerRecord(msgspec.Struct, frozen=True):
    """What is kept of an answer beside its frames; it changes a few times only."""

    session_id: str
    query: Query
    state: StreamState
    tokens: int = 0
    input_tokens: int = 0
    first_token_ms: float | None = None
    plan: Plan | None = None


class StoredAnswer(NamedTuple):
    """An answer as the replay store returns it: its record and its frames, ``frames[seq]``."""

    record: AnswerRecord
    frames: list[bytes]

    @property
    def text(self) -> str:
        """The text that its frames hold."""
        return "".join(msgspec.json.decode(frame, type=Chunk).text for frame in self.frames if is_of(frame, Chunk))

    def lacks(self, seq: int) -> bool:
        """Whether a client that has frame ``seq`` has more than is stored, so that the rest would not fit."""
        return seq >= len(self.frames)
