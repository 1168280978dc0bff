"""Single flight: one generation of an answer, however many requests in however many processes wait for it.

The process that gets the lock in Redis generates the answer and publishes it to a Redis stream as it comes; the others
subscribe. Requests within one process share one :class:`Generation`. When the leader dies its lock expires and the
subscribers fail.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from enum import Enum
from typing import Any

import msgspec
from botocore.exceptions import BotoCoreError, ClientError
from opensearchpy.exceptions import OpenSearchException
from redis.asyncio import Redis
from redis.exceptions import RedisError

from mangalib.errors import MangaError, TransportError
from mangalib.precompute.generated_answer import GeneratedAnswer
from mangalib.resilience import end_if_cancelled
from mangalib.settings import SingleFlightSettings

log = logging.getLogger(__name__)

_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
_BLOCK_MS = 500
_STREAM_TTL_S = 30
WriteText = Callable[[str], Awaitable[None]]
Generate = Callable[[WriteText], Awaitable[GeneratedAnswer]]


class LockState(Enum):
    """Who holds the lock; ``UNKNOWN`` when Redis does not answer: then each process generates for itself."""

    HELD_HERE = "here"
    HELD_ELSEWHERE = "elsewhere"
    UNKNOWN = "unknown"


class Generation:
    """An answer being generated, by this process (``is_leader``) or another; without ``subscribers`` it may be cancelled."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.subscribers = 0
        self.is_leader = False
        self.result: GeneratedAnswer | None = None
        self.task: asyncio.Task[None] | None = None
        self.started = asyncio.Event()
        self._pieces: list[str] = []
        self._error: MangaError | None = None
        self._changed = asyncio.Event()

    @property
    def done(self) -> bool:
        """Whether it has completed or failed."""
        return self.result is not None or self._error is not None

    def write(self, piece: str) -> None:
        """Append the next piece of text."""
        self._pieces.append(piece)
        self._wake()

    def complete(self, result: GeneratedAnswer) -> None:
        """The answer is complete."""
        self.result = result
        self._wake()

    def fail(self, error: MangaError) -> None:
        """The generation has failed; no effect once it is done."""
        if not self.done:
            self._error = error
            self._wake()

    async def pieces(self) -> AsyncGenerator[str, None]:
        """All text from the beginning, as it comes; raises the error of a failed generation."""
        self.subscribers += 1
        position = 0
        try:
            while True:
                self._changed.clear()
                if position < len(self._pieces):
                    text = "".join(self._pieces[position:])
                    position = len(self._pieces)
                    yield text
                elif self._error is not None:
                    raise self._error
                elif self.result is not None:
                    return
                else:
                    await self._changed.wait()
        finally:
            self.subscribers -= 1

    def _wake(self) -> None:
        self.started.set()
        self._changed.set()


class SingleFlight:
    """All generations of a process; ``spawn`` starts tasks that the caller awaits."""

    def __init__(self, redis: Redis, settings: SingleFlightSettings, spawn: Callable[..., asyncio.Task[None]]) -> None:
        self._redis: Any = redis  # redis-py's types do not know that answers are bytes here
        self._settings = settings
        self._spawn = spawn
        self._running: dict[str, Generation] = {}

    def running(self, key: str) -> Generation | None:
        """The running generation of ``key`` in this process."""
        return self._running.get(key)

    def cancel_idle(self) -> int:
        """Cancel the generations of this process that have no subscribers; returns how many."""
        idle = [generation for generation in self._running.values() if generation.is_leader]
        return sum(self._cancel_if_idle(generation) for generation in idle)

    def cancel(self, key: str) -> None:
        """Cancel the generation of ``key``, if it has no subscribers."""
        generation = self._running.get(key)
        if generation is not None:
            self._cancel_if_idle(generation)

    def stop(self) -> None:
        """Cancel all generations."""
        for generation in self._running.values():
            if generation.task is not None:
                generation.task.cancel()

    def start(self, key: str, generate: Generate) -> Generation:
        """The running generation of ``key``, or a new one, for which ``generate`` is called if no other process has the lock."""
        generation = self._running.get(key)
        if generation is None:
            generation = self._running[key] = Generation(key)
            generation.task = self._spawn(self._run(generation, generate))
        return generation

    @staticmethod
    def _cancel_if_idle(generation: Generation) -> bool:
        if generation.subscribers or generation.task is None:
            return False
        return generation.task.cancel()

    async def _run(self, generation: Generation, generate: Generate) -> None:
        try:
            async with asyncio.timeout(self._settings.flight_timeout_s):
                await self._lead_or_subscribe(generation, generate)
        except MangaError as error:
            generation.fail(error)
        except TimeoutError:
            generation.fail(TransportError(f"generation: not complete after {self._settings.flight_timeout_s:g} s"))
        except (RedisError, OSError, ClientError, BotoCoreError, OpenSearchException) as error:
            generation.fail(TransportError(f"{type(error).__name__}: {error}"))
        except Exception as error:  # subscribers must not wait for ever, whatever has happened
            log.exception("generation failed")
            generation.fail(TransportError(type(error).__name__))
        finally:
            generation.fail(TransportError("generation: cancelled"))
            del self._running[generation.key]

    async def _lead_or_subscribe(self, generation: Generation, generate: Generate) -> None:
        token = secrets.token_hex(8)
        try:
            lock = await self._lock(generation.key, token)
            if lock is LockState.HELD_ELSEWHERE:
                await self._subscribe(generation)
            else:
                generation.is_leader = True
                await self._lead(generation, generate, shared=lock is LockState.HELD_HERE)
        finally:
            # Also after a cancellation while locking; another process's lock stays, as its token differs.
            await self._unlock(generation.key, token)

    async def _lead(self, generation: Generation, generate: Generate, *, shared: bool) -> None:
        async def write(piece: str) -> None:
            generation.write(piece)
            if shared:
                await self._publish(generation.key, {"text": piece})

        try:
            result = await generate(write)
        except MangaError as error:
            await self._publish(generation.key, {"error": str(error)})
            raise
        generation.complete(result)
        if shared:
            await self._publish(generation.key, {"result": msgspec.json.encode(result)})

    async def _lock(self, key: str, token: str) -> LockState:
        try:
            lifetime_ms = int(self._settings.flight_timeout_s * 1000)
            async with asyncio.timeout(self._settings.replay_timeout_ms / 1000):
                if await self._redis.set(_lock_key(key), token, nx=True, px=lifetime_ms):
                    await self._redis.delete(_stream_key(key))
                    return LockState.HELD_HERE
                return LockState.HELD_ELSEWHERE
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("generation not locked, other processes may repeat it: Redis: %s", type(error).__name__)
            return LockState.UNKNOWN

    async def _unlock(self, key: str, token: str) -> None:
        try:
            async with asyncio.timeout(self._settings.replay_timeout_ms / 1000):
                await self._redis.eval(_RELEASE, 1, _lock_key(key), token)
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("generation lock not released, it will expire: Redis: %s", type(error).__name__)

    async def _publish(self, key: str, entry: dict[str, str | bytes]) -> None:
        try:
            async with (
                asyncio.timeout(self._settings.replay_timeout_ms / 1000),
                self._redis.pipeline(transaction=False) as pipe,
            ):
                pipe.xadd(_stream_key(key), entry)
                pipe.expire(_stream_key(key), _STREAM_TTL_S)
                await pipe.execute()
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("generation not published to other processes: Redis: %s", type(error).__name__)
        end_if_cancelled()

    async def _subscribe(self, generation: Generation) -> None:
        last: str | bytes = "0"
        while True:
            end_if_cancelled()
            try:
                found = await self._redis.xread({_stream_key(generation.key): last}, block=_BLOCK_MS)
                leader_gone = not found and not await self._redis.exists(_lock_key(generation.key))
            except (RedisError, OSError) as error:
                raise TransportError(f"Redis: {type(error).__name__} while another process generates") from None
            for entry_id, entry in found[0][1] if found else ():
                last = entry_id
                if b"text" in entry:
                    generation.write(entry[b"text"].decode())
                elif b"error" in entry:
                    raise TransportError(f"generation failed in another process: {entry[b'error'].decode()}")
                else:
                    generation.complete(msgspec.json.decode(entry[b"result"], type=GeneratedAnswer))
                    return
            if leader_gone:
                raise TransportError("generation: the leading process is gone")


def _lock_key(key: str) -> str:
    return f"lock:{key}"


def _stream_key(key: str) -> str:
    return f"flight:{key}"
