"""The replay store: the frames of each answer, kept in Redis for as long as its client may come back for them."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass

import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import RedisError

from mangalib.serving.answer_record import AnswerRecord, StoredAnswer


@dataclass
class _Write:
    """One answer's pending write; ``done`` once it was attempted, with the error in ``failed`` if it failed."""

    key: str
    record: AnswerRecord | None
    frames: list[bytes]
    first_seq: int
    done: bool = False
    failed: Exception | None = None

    def put(self, pipe: Pipeline, ttl_s: int) -> None:
        if self.record is not None:
            if self.first_seq == 0:
                pipe.delete(f"{self.key}:frames")
            pipe.set(f"{self.key}:head", msgspec.json.encode(self.record), ex=ttl_s)
        if self.frames:
            fields = [part for seq, frame in enumerate(self.frames, self.first_seq) for part in (str(seq), frame)]
            pipe.hset(f"{self.key}:frames", items=fields)
        pipe.expire(f"{self.key}:frames", ttl_s)


class ReplayStore:
    """Answers by customer and request id; no choice of ids can reach another customer's answer.

    Writes that arrive while one is under way are sent together in the next round trip (group commit, DeWitt et al. 1984), so the
    cost of each falls as more answers run. At most one write of an answer waits.
    """

    def __init__(self, redis: Redis, *, ttl_s: int) -> None:
        self._redis = redis
        self._ttl_s = ttl_s
        self._waiting: list[_Write] = []
        self._write_lock = asyncio.Lock()

    async def save(
        self, customer: str, request_id: str, record: AnswerRecord | None, frames: list[bytes], first_seq: int
    ) -> None:
        """Write the frames from ``first_seq`` on, and the record unless it is the one that was written last (``None``).

        Writing the same twice changes nothing. It is kept for ``ttl_s`` from then on. Raises ``RedisError`` or ``OSError``.
        """
        write = _Write(_key(customer, request_id), record, frames, first_seq)
        self._waiting.append(write)
        async with self._write_lock:
            if not write.done:
                await self._write_all(mine=write)
        if write.failed is not None:
            raise write.failed

    async def _write_all(self, mine: _Write) -> None:
        writes, self._waiting = self._waiting, []
        try:
            async with self._redis.pipeline(transaction=True) as pipe:
                for write in writes:
                    write.put(pipe, self._ttl_s)
                await pipe.execute()
        except (RedisError, OSError) as error:
            for write in writes:
                write.done, write.failed = True, error
        except asyncio.CancelledError:
            # A cancelled writer takes only its own frames with it.
            self._waiting = [write for write in writes if write is not mine] + self._waiting
            raise
        else:
            for write in writes:
                write.done = True

    async def load(self, customer: str, request_id: str) -> StoredAnswer | None:
        """The answer, or ``None`` when there is none or it has expired."""
        key = _key(customer, request_id)
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.get(f"{key}:head")
            pipe.hgetall(f"{key}:frames")
            record, frames = await pipe.execute()
        if record is None:
            return None
        by_seq = {int(seq): frame for seq, frame in frames.items()}
        return StoredAnswer(msgspec.json.decode(record, type=AnswerRecord), [by_seq[seq] for seq in sorted(by_seq)])


def _key(customer: str, request_id: str) -> str:
    # Hashed as a JSON pair: no separator inside an id can make two pairs collide.
    return "replay:" + hashlib.sha256(json.dumps([customer, request_id]).encode()).hexdigest()
