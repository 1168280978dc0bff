"""One making of an answer, however many wait for it, in however many processes.

Who gets the lock in Redis makes it and writes what comes into a Redis stream; the others read along. Within a process
all share one flight. When its maker dies the lock expires, and those who read along are told.
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
from mangalib.settings import Settings

log = logging.getLogger(__name__)

_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
_BLOCK_MS = 500
_KEPT_S = 30
Write = Callable[[str], Awaitable[None]]


class Lock(Enum):
    """Whose it is to make an answer; ``UNKNOWN`` when Redis cannot tell: then each process makes it for itself."""

    HELD_HERE = "ours"
    HELD_ELSEWHERE = "another's"
    UNKNOWN = "unknown"


class Generation:
    """An answer on its way. ``listeners`` wait for it; without any, it may be cancelled."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.listeners = 0
        self.leading = False
        self.result: GeneratedAnswer | None = None
        self.task: asyncio.Task[None] | None = None
        self._pieces: list[str] = []
        self._error: MangaError | None = None
        self._news = asyncio.Event()
        self.started = asyncio.Event()

    @property
    def done(self) -> bool:
        """Whether nothing more will come."""
        return self.result is not None or self._error is not None

    def write(self, piece: str) -> None:
        """The next piece of text."""
        self._pieces.append(piece)
        self.started.set()
        self._news.set()

    def complete(self, result: GeneratedAnswer) -> None:
        """The answer is whole."""
        self.result = result
        self.started.set()
        self._news.set()

    def fail(self, error: MangaError) -> None:
        """It will not be made."""
        if not self.done:
            self._error = error
            self.started.set()
            self._news.set()

    async def pieces(self) -> AsyncGenerator[str, None]:
        """All text from the beginning, as it comes; raises the error that ended it."""
        self.listeners += 1
        at = 0
        try:
            while True:
                self._news.clear()
                if at < len(self._pieces):
                    text = "".join(self._pieces[at:])
                    at = len(self._pieces)
                    yield text
                elif self._error is not None:
                    raise self._error
                elif self.result is not None:
                    return
                else:
                    await self._news.wait()
        finally:
            self.listeners -= 1


class SingleFlight:
    """All flights of a process; ``spawn`` starts tasks that their owner awaits."""

    def __init__(self, redis: Redis, settings: Settings, spawn: Callable[..., asyncio.Task[None]]) -> None:
        self._redis: Any = redis  # its types do not know that answers are bytes here
        self._settings = settings
        self._spawn = spawn
        self._running: dict[str, Generation] = {}

    def running(self, key: str) -> Generation | None:
        """The flight of that key in this process."""
        return self._running.get(key)

    def cancel_idle(self) -> int:
        """Stop whatever nobody listens to; returns how many."""
        idle = [flight for flight in self._running.values() if not flight.listeners and flight.leading]
        for flight in idle:
            if flight.task is not None:
                flight.task.cancel()
        return len(idle)

    def cancel(self, key: str) -> None:
        """Stop that one, if nobody listens to it."""
        flight = self._running.get(key)
        if flight is not None and not flight.listeners and flight.task is not None:
            flight.task.cancel()

    def stop(self) -> None:
        """Stop all of them."""
        for flight in self._running.values():
            if flight.task is not None:
                flight.task.cancel()

    def start(self, key: str, make: Callable[[Write], Awaitable[GeneratedAnswer]]) -> Generation:
        """The flight of ``key``: the one that runs, or a new one, which ``make`` fills if no other process does."""
        flight = self._running.get(key)
        if flight is None:
            flight = self._running[key] = Generation(key)
            flight.task = self._spawn(self._fly(flight, make))
        return flight

    async def _fly(self, flight: Generation, make: Callable[[Write], Awaitable[GeneratedAnswer]]) -> None:
        try:
            async with asyncio.timeout(self._settings.flight_timeout_s):
                await self._generate_or_subscribe(flight, make)
        except MangaError as error:
            flight.fail(error)
        except TimeoutError:
            flight.fail(TransportError(f"not made within {self._settings.flight_timeout_s:g} s"))
        except (RedisError, OSError, ClientError, BotoCoreError, OpenSearchException) as error:
            flight.fail(TransportError(f"{type(error).__name__}: {error}"))
        except Exception as error:  # whatever it is, those who wait must be told; the log gets the rest
            log.exception("the making of an answer failed")
            flight.fail(TransportError(type(error).__name__))
        finally:
            flight.fail(TransportError("its making was cancelled"))
            del self._running[flight.key]

    async def _generate_or_subscribe(
        self, flight: Generation, make: Callable[[Write], Awaitable[GeneratedAnswer]]
    ) -> None:
        token = secrets.token_hex(8)
        try:
            lock = await self._lock(flight.key, token)
            if lock is Lock.HELD_ELSEWHERE:
                await self._subscribe(flight)
            else:
                flight.leading = True
                await self._lead(flight, make, shared=lock is Lock.HELD_HERE)
        finally:
            # Also when it was cancelled on the way to the lock: a lock of another's stays.
            await self._unlock(flight.key, token)

    async def _lead(
        self, flight: Generation, make: Callable[[Write], Awaitable[GeneratedAnswer]], *, shared: bool
    ) -> None:
        async def write(piece: str) -> None:
            flight.write(piece)
            if shared:
                await self._tell(flight.key, {"text": piece})

        try:
            result = await make(write)
        except MangaError as error:
            await self._tell(flight.key, {"error": str(error)})
            raise
        flight.complete(result)
        if shared:
            await self._tell(flight.key, {"result": msgspec.json.encode(result)})

    async def _lock(self, key: str, token: str) -> Lock:
        try:
            lifetime_ms = int(self._settings.flight_timeout_s * 1000)
            async with asyncio.timeout(self._settings.replay_timeout_ms / 1000):
                if await self._redis.set(_lock_key(key), token, nx=True, px=lifetime_ms):
                    await self._redis.delete(_stream_key(key))
                    return Lock.HELD_HERE
                return Lock.HELD_ELSEWHERE
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("Redis: %s; an answer is made without asking others", type(error).__name__)
            return Lock.UNKNOWN

    async def _unlock(self, key: str, token: str) -> None:
        try:
            async with asyncio.timeout(self._settings.replay_timeout_ms / 1000):
                await self._redis.eval(_RELEASE, 1, _lock_key(key), token)
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("Redis: %s; a lock is left to expire", type(error).__name__)

    async def _tell(self, key: str, news: dict[str, str | bytes]) -> None:
        try:
            async with (
                asyncio.timeout(self._settings.replay_timeout_ms / 1000),
                self._redis.pipeline(transaction=False) as pipe,
            ):
                pipe.xadd(_stream_key(key), news)
                pipe.expire(_stream_key(key), _KEPT_S)
                await pipe.execute()
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("Redis: %s; others are not told of an answer", type(error).__name__)
        end_if_cancelled()

    async def _subscribe(self, flight: Generation) -> None:
        last: str | bytes = "0"
        while True:
            end_if_cancelled()
            try:
                found = await self._redis.xread({_stream_key(flight.key): last}, block=_BLOCK_MS)
                gone = not found and not await self._redis.exists(_lock_key(flight.key))
            except (RedisError, OSError) as error:
                raise TransportError(f"Redis: {type(error).__name__} while another made the answer") from None
            for entry, news in found[0][1] if found else ():
                last = entry
                if b"text" in news:
                    flight.write(news[b"text"].decode())
                elif b"error" in news:
                    raise TransportError(f"another failed to make the answer: {news[b'error'].decode()}")
                else:
                    flight.complete(msgspec.json.decode(news[b"result"], type=GeneratedAnswer))
                    return
            if gone:
                raise TransportError("who made the answer is gone")


def _lock_key(key: str) -> str:
    return f"lock:{key}"


def _stream_key(key: str) -> str:
    return f"flight:{key}"
