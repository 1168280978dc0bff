"""Work that gives way: it has connections of its own, waits its turn, and stops as soon as a live query has to wait."""

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

_WAITING_MAX = 256


@dataclass(order=True)
class _Job:
    less_worth: float
    number: int
    owner: str = field(compare=False)
    due_until_s: float = field(compare=False)
    run: Callable[[], Awaitable[None]] = field(compare=False)


class Background:
    """A bounded queue of jobs, the most valuable first, worked off by ``workers`` tasks."""

    def __init__(self, *, workers: int, quiet_s: float, yielding: Callable[[], object]) -> None:
        self._workers = workers
        self._quiet_s = quiet_s
        self._yielding = yielding
        self._jobs: list[_Job] = []
        self._numbers = itertools.count()
        self._news = asyncio.Event()
        self._blocked_until_s = 0.0
        self.active = 0

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._jobs and not self.active

    def offer(self, owner: str, worth: float, run: Callable[[], Awaitable[None]], *, within_s: float) -> None:
        """Do it when there is time, within that many seconds; the least valuable job goes when too many wait."""
        job = _Job(-worth, next(self._numbers), owner, time.monotonic() + within_s, run)
        heapq.heappush(self._jobs, job)
        if len(self._jobs) > _WAITING_MAX:
            self._jobs.remove(max(self._jobs))
            heapq.heapify(self._jobs)
        self._news.set()

    def forget(self, owner: str) -> None:
        """Whoever wanted it is gone."""
        self._jobs = [job for job in self._jobs if job.owner != owner]
        heapq.heapify(self._jobs)

    def give_way(self) -> None:
        """A live query has to wait for something: stop at once, and stay quiet for a moment."""
        self._blocked_until_s = time.monotonic() + self._quiet_s
        if self.active:
            self._yielding()

    async def work(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._workers):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            while not self._jobs:
                self._news.clear()
                await self._news.wait()
            if (pause_s := self._blocked_until_s - time.monotonic()) > 0:
                await asyncio.sleep(pause_s)
                continue
            job = heapq.heappop(self._jobs)
            if job.due_until_s < time.monotonic():
                continue
            self.active += 1
            try:
                await job.run()
            except (MangaError, RedisError, OSError, TimeoutError) as error:
                log.info("background work ended: %s: %s", type(error).__name__, error)
            except Exception:
                log.exception("background work failed")
            finally:
                self.active -= 1
            end_if_cancelled()
