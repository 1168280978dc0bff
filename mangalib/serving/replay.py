"""Replay buffer: what was sent for an answer, kept in Redis for as long as a client may come back for it."""

from __future__ import annotations

import hashlib
import json
from typing import NamedTuple

import msgspec
from redis.asyncio import Redis

from mangalib.serving.bedrock import ClaudeRequest
from mangalib.serving.messages import Chunk, Query, is_of
from mangalib.serving.stream import StreamState


class Plan(msgspec.Struct, frozen=True):
    """What the model is asked: enough to go on with an answer that was cut off."""

    intent: str
    model_id: str
    request: ClaudeRequest


class Head(msgspec.Struct):
    """An answer's record beside its frames: what changes a few times only."""

    session_id: str
    query: Query
    state: StreamState
    tokens: int = 0
    input_tokens: int = 0
    first_token_ms: float | None = None
    plan: Plan | None = None


class Recorded(NamedTuple):
    """What is known of an answer: its record and its frames, ``frames[seq]``."""

    head: Head
    frames: list[bytes]

    @property
    def text(self) -> str:
        """What of the answer its frames hold."""
        return "".join(msgspec.json.decode(frame, type=Chunk).text for frame in self.frames if is_of(frame, Chunk))

    def lacks(self, seq: int) -> bool:
        """Whether a client that has frame ``seq`` has more than is known here, so that the rest would not fit."""
        return seq >= len(self.frames)


class ReplayStore:
    """Answers by customer and request id: nobody can name another customer's, whatever the ids look like."""

    def __init__(self, redis: Redis, *, ttl_s: int) -> None:
        self._redis = redis
        self._ttl_s = ttl_s

    async def save(
        self, customer: str, request_id: str, head: Head | None, frames: list[bytes], first_seq: int
    ) -> None:
        """Write the frames from ``first_seq`` on, and the record unless it is the one that was written last (``None``).

        Writing the same twice changes nothing. From the record's writing on it is all kept for ``ttl_s``.
        """
        key = _key(customer, request_id)
        fields = [part for seq, frame in enumerate(frames, first_seq) for part in (str(seq), frame)]
        if head is None:
            await self._redis.hset(f"{key}:frames", items=fields)
            return
        async with self._redis.pipeline(transaction=True) as pipe:
            if first_seq == 0:
                pipe.delete(f"{key}:frames")
            pipe.set(f"{key}:head", msgspec.json.encode(head), ex=self._ttl_s)
            if frames:
                pipe.hset(f"{key}:frames", items=fields)
            pipe.expire(f"{key}:frames", self._ttl_s)
            await pipe.execute()

    async def load(self, customer: str, request_id: str) -> Recorded | None:
        """The answer, or ``None`` when there never was one or its time is over."""
        key = _key(customer, request_id)
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.get(f"{key}:head")
            pipe.hgetall(f"{key}:frames")
            head, frames = await pipe.execute()
        if head is None:
            return None
        by_seq = {int(seq): frame for seq, frame in frames.items()}
        return Recorded(msgspec.json.decode(head, type=Head), [by_seq[seq] for seq in sorted(by_seq)])


def _key(customer: str, request_id: str) -> str:
    # Hashed as a JSON pair: no choice of separator inside an id can make two pairs meet.
    return "replay:" + hashlib.sha256(json.dumps([customer, request_id]).encode()).hexdigest()
