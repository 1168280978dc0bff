"""Warm pool: connections that are open, TLS handshake included, before a request needs one.

``size`` connections are kept warm; under load the pool grows to ``max_size`` and shrinks back. Waiters are served first
come, first served, and get a ``BusyError`` after ``acquire_timeout_s``. The keep-alive, every ``keep_alive_s``, uses
idle connections only, and never the last one, so that no query waits for it.
"""

from __future__ import annotations

import asyncio
import bisect
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

from mangalib.aws.http1 import HttpConnection
from mangalib.errors import BusyError, TransportError
from mangalib.resilience import NO_JITTER, backoff_pauses, refresh_periodically

log = logging.getLogger(__name__)

REFILL_BACKOFF_S = 0.2
REFILL_BACKOFF_MAX_S = 10.0


class WarmPool:
    """Use as ``async with WarmPool(...) as pool: async with pool.lease() as connection: ...``.

    Entering opens ``size`` connections and raises ``TransportError`` when none can be opened; leaving closes all of
    them and cancels the pool's tasks. ``opener`` opens a connection, ``keep_alive`` sends a harmless request over one.
    """

    def __init__(
        self,
        opener: Callable[[], Awaitable[HttpConnection]],
        *,
        size: int,
        max_size: int,
        acquire_timeout_s: float,
        shrink_after_s: float,
        keep_alive_s: float,
        keep_alive: Callable[[HttpConnection], Awaitable[None]] | None = None,
        refill_backoff_s: float = REFILL_BACKOFF_S,
    ) -> None:
        self._opener = opener
        self._size = size
        self._max_size = max(size, max_size)
        self._acquire_timeout_s = acquire_timeout_s
        self._shrink_after_s = shrink_after_s
        self._keep_alive_s = keep_alive_s
        self._keep_alive = keep_alive
        self._refill_backoff_s = refill_backoff_s
        self._idle: list[HttpConnection] = []  # by last use, the most recent last
        self._leased: set[HttpConnection] = set()
        self._opening = 0
        self._waiters: deque[asyncio.Future[HttpConnection]] = deque()
        self._closed = False
        self._tasks: asyncio.TaskGroup | None = None
        self._background: list[asyncio.Task[None]] = []
        self._refill_wanted = asyncio.Event()
        # Called whenever a request has to wait for a connection.
        self.on_wait: Callable[[], None] | None = None

    @property
    def idle(self) -> int:
        """The number of idle connections."""
        return len(self._idle)

    @property
    def total(self) -> int:
        """The number of connections: idle, leased and being opened."""
        return len(self._idle) + len(self._leased) + self._opening

    async def __aenter__(self) -> WarmPool:
        first = await asyncio.gather(*(self._open() for _ in range(self._size)), return_exceptions=True)
        errors = [outcome for outcome in first if isinstance(outcome, BaseException)]
        if len(errors) == self._size:
            self._closed = True
            raise errors[0]
        self._tasks = await asyncio.TaskGroup().__aenter__()
        maintaining = refresh_periodically("maintaining the warm pool", self._keep_alive_s, self._maintain)
        self._background = [self._tasks.create_task(maintaining), self._tasks.create_task(self._refill())]
        if errors:
            self._refill_wanted.set()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._tasks is not None
        for task in self._background:
            task.cancel()
        self._closed = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(TransportError("the connection pool was closed while waiting for a connection"))
        await self._tasks.__aexit__(None, None, None)
        for connection in [*self._idle, *self._leased]:
            connection.on_lost = None
            connection.close()
        self._idle.clear()

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[HttpConnection]:
        """Lease a connection for the block; it is closed instead of returned unless its response was read completely.

        Raises ``BusyError`` after ``acquire_timeout_s``, ``TransportError`` when a new connection was needed and failed.
        """
        connection = await self._acquire()
        try:
            yield connection
        finally:
            connection.last_used = time.monotonic()
            self._release(connection)

    async def _acquire(self) -> HttpConnection:
        while self._idle and not self._waiters:
            connection = self._idle.pop()
            if connection.reusable:
                self._leased.add(connection)
                return connection
            self._discard(connection)
        waiter: asyncio.Future[HttpConnection] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        if self.on_wait is not None:
            self.on_wait()
        self._grow()
        try:
            async with asyncio.timeout(self._acquire_timeout_s):
                return await waiter
        except TimeoutError:
            self._abandon(waiter)
            raise BusyError(f"no free connection within {self._acquire_timeout_s:g} s; try again") from None
        except asyncio.CancelledError:
            self._abandon(waiter)
            raise

    def _abandon(self, waiter: asyncio.Future[HttpConnection]) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        elif waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            # The connection was handed over at the moment its waiter gave up.
            self._release(waiter.result())

    def _release(self, connection: HttpConnection) -> None:
        self._leased.discard(connection)
        if not connection.reusable or self._closed:
            self._discard(connection)
            return
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self._leased.add(connection)
                waiter.set_result(connection)
                return
        bisect.insort(self._idle, connection, key=lambda idle: idle.last_used)

    def _discard(self, connection: HttpConnection) -> None:
        connection.on_lost = None
        connection.close()
        if self._waiters:
            self._grow()
        if self.total < self._size:
            self._refill_wanted.set()

    def _lost(self, connection: HttpConnection) -> None:
        """The peer closed a connection; leased ones are handled by their users."""
        if connection in self._idle:
            self._idle.remove(connection)
            self._discard(connection)

    async def _open(self) -> None:
        self._opening += 1
        try:
            connection = await self._opener()
        finally:
            self._opening -= 1
        connection.on_lost = self._lost
        self._release(connection)

    def _grow(self) -> None:
        while (
            self._tasks is not None
            and not self._closed
            and self._opening < len(self._waiters)
            and self.total < self._max_size
        ):
            # Counted here because the task starts only in the next iteration of the event loop.
            self._opening += 1
            self._tasks.create_task(self._open_for_waiter())

    async def _open_for_waiter(self) -> None:
        self._opening -= 1
        try:
            await self._open()
        except TransportError as error:
            while self._waiters:
                waiter = self._waiters.popleft()
                if not waiter.done():
                    waiter.set_exception(error)
                    return

    async def _refill(self) -> None:
        """Restore ``size`` connections after some were lost, with back-off while that fails."""
        pauses = self._refill_pauses()
        while True:
            await self._refill_wanted.wait()
            self._refill_wanted.clear()
            try:
                while self.total < self._size:
                    await self._open()
                pauses = self._refill_pauses()
            except TransportError as error:
                log.warning("warm pool: %d of %d connections: %s", self.total, self._size, error)
                self._refill_wanted.set()
            # Also after success: a peer that accepts and closes at once must not turn this into a busy loop.
            await asyncio.sleep(next(pauses))

    def _refill_pauses(self) -> Iterator[float]:
        return backoff_pauses(self._refill_backoff_s, REFILL_BACKOFF_MAX_S, jitter=NO_JITTER)

    async def _maintain(self) -> None:
        self._shrink()
        if self._keep_alive is not None:
            await self._keep_idle_alive(self._keep_alive)

    def _shrink(self) -> None:
        oldest_allowed = time.monotonic() - self._shrink_after_s
        while self.total > self._size and self._idle and self._idle[0].last_used < oldest_allowed:
            self._discard(self._idle.pop(0))

    async def _keep_idle_alive(self, keep_alive: Callable[[HttpConnection], Awaitable[None]]) -> None:
        for connection in list(self._idle):
            if len(self._idle) < 2 or connection not in self._idle:
                continue
            self._idle.remove(connection)
            self._leased.add(connection)
            try:
                await keep_alive(connection)
            except TransportError as error:
                log.warning("keep-alive failed, the connection is replaced: %s", error)
                connection.close()
            finally:
                self._release(connection)
