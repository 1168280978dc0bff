"""Circuit breaker: a dependency that keeps failing is not called for a while, so that no request waits for it (Nygard 2007).

closed -> open            after ``failures`` consecutive failures
open -> half open         after ``pause_s``: one request is admitted
half open -> closed       if it succeeds, else open again
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum

from mangalib.errors import DependencyDownError
from mangalib.settings import ResilienceSettings


class BreakerState(StrEnum):
    """Open refuses all requests, half open admits one."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """The breaker of one dependency. No I/O; ``clock`` returns monotonic seconds."""

    def __init__(
        self, name: str, *, failures: int, pause_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self._failures_max = failures
        self._pause_s = pause_s
        self._clock = clock
        self._failures = 0
        self._next_s = float("-inf")

    @classmethod
    def from_settings(cls, name: str, settings: ResilienceSettings) -> CircuitBreaker:
        """A breaker with the thresholds that all dependencies share."""
        return cls(name, failures=settings.breaker_failures, pause_s=settings.breaker_pause_s)

    @property
    def state(self) -> BreakerState:
        """The state at this moment of the clock."""
        if self._failures < self._failures_max:
            return BreakerState.CLOSED
        return BreakerState.OPEN if self._clock() < self._next_s else BreakerState.HALF_OPEN

    @contextmanager
    def watch(self, is_failure: Callable[[Exception], bool] = lambda error: True) -> Iterator[None]:
        """Wrap one request. Cancellation, and errors for which ``is_failure`` is false, count neither as failure nor success.

        Raises ``DependencyDownError`` without sending the request while the breaker is open.
        """
        if self.state is BreakerState.OPEN:
            left_ms = round((self._next_s - self._clock()) * 1000)
            raise DependencyDownError(f"{self.name} keeps failing; not called for {left_ms} ms", retry_after_ms=left_ms)
        # While half open, this is the one request that is admitted; the next follows if it has not returned by then.
        self._next_s = self._clock() + self._pause_s
        try:
            yield
        except Exception as error:
            if is_failure(error):
                self._failures += 1
                self._next_s = self._clock() + self._pause_s
            raise
        else:
            self._failures = 0
