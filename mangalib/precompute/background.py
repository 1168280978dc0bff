"""Background work that yields to live queries: it has its own connections and stops as soon as a live query has to wait."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from redis.exceptions import RedisError

from mangalib.errors import MangaError
from mangalib.resilience import end_if_cancelled

log = logging.getLogger(__name__)

_QUEUED_MAX = 256


@dataclass(order=True)
class _Entry:
    negative_value: float
    number: int
    owner: str = field(compare=False)
    deadline_s: float = field(compare=False)
    work: Callable[[], Awaitable[None]] = field(compare=False)


class BackgroundQueue:
    """A bounded priority queue of work, the most valuable first, executed by ``workers`` tasks.

    When a live query has to wait, ``on_yield`` is called to stop running work, and nothing new starts for ``quiet_s``.
    """

    def __init__(self, *, workers: int, quiet_s: float, on_yield: Callable[[], object]) -> None:
        self._workers = workers
        self._quiet_s = quiet_s
        self._on_yield = on_yield
        self._queued: list[_Entry] = []
        self._numbers = itertools.count()
        self._submitted = asyncio.Event()
        self._quiet_until_s = 0.0
        self.active = 0

    @property
    def idle(self) -> bool:
        """Whether nothing is queued or running."""
        return not self._queued and not self.active

    def submit(self, owner: str, value: float, work: Callable[[], Awaitable[None]], *, within_s: float) -> None:
        """Queue ``work``, to be dropped if not started within ``within_s``; a full queue drops its least valuable entry."""
        entry = _Entry(-value, next(self._numbers), owner, time.monotonic() + within_s, work)
        heapq.heappush(self._queued, entry)
        if len(self._queued) > _QUEUED_MAX:
            self._queued.remove(max(self._queued))
            heapq.heapify(self._queued)
        self._submitted.set()

    def discard(self, owner: str) -> None:
        """Drop the queued work of ``owner``."""
        self._queued = [entry for entry in self._queued if entry.owner != owner]
        heapq.heapify(self._queued)

    def yield_to_live(self) -> None:
        """A live query has to wait: stop running work and stay quiet for ``quiet_s``."""
        self._quiet_until_s = time.monotonic() + self._quiet_s
        if self.active:
            self._on_yield()

    async def work(self) -> None:
        """Execute queued work until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._workers):
                group.create_task(self._worker())

    async def _worker(self) -> None:
        while True:
            while not self._queued:
                self._submitted.clear()
                await self._submitted.wait()
            if (pause_s := self._quiet_until_s - time.monotonic()) > 0:
                await asyncio.sleep(pause_s)
                continue
            entry = heapq.heappop(self._queued)
            if entry.deadline_s < time.monotonic():
                continue
            self.active += 1
            try:
                await entry.work()
            except (MangaError, RedisError, OSError, TimeoutError) as error:
                log.info("background work ended early: %s: %s", type(error).__name__, error)
            except Exception:
                log.exception("background work failed")
            finally:
                self.active -= 1
            end_if_cancelled()
