"""Circuit breaker: what fails again and again is not asked for a while, so that nobody waits for it (Nygard 2007).

closed -> open after ``failures`` in a row -> half open after ``pause_s``: one is let through -> closed, or open again
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum

from mangalib.errors import DependencyDownError
from mangalib.settings import ResilienceSettings


class BreakerState(StrEnum):
    """Whether requests pass."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """One dependency's. Without I/O; ``clock`` gives seconds that only go forward."""

    def __init__(
        self, name: str, *, failures: int, pause_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self._allowed = failures
        self._pause_s = pause_s
        self._clock = clock
        self._failures = 0
        self._next_s = float("-inf")

    @classmethod
    def from_settings(cls, name: str, settings: ResilienceSettings) -> CircuitBreaker:
        """With the figures that hold for all dependencies alike."""
        return cls(name, failures=settings.breaker_failures, pause_s=settings.breaker_pause_s)

    @property
    def state(self) -> BreakerState:
        """As of now."""
        if self._failures < self._allowed:
            return BreakerState.CLOSED
        return BreakerState.OPEN if self._clock() < self._next_s else BreakerState.HALF_OPEN

    @contextmanager
    def watch(self, is_failure: Callable[[Exception], bool] = lambda error: True) -> Iterator[None]:
        """Around one request. What is cancelled, or fails in a way that is not the dependency's fault, counts as nothing.

        Raises ``DependencyDownError`` at once, without a request, while the breaker is open.
        """
        if self.state is BreakerState.OPEN:
            left_ms = round((self._next_s - self._clock()) * 1000)
            raise DependencyDownError(f"{self.name} keeps failing and is not asked", retry_after_ms=left_ms)
        # Half open, this is the one that is let through; the next one is when this one has not come back by then.
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
