"""Adaptive retry mode: after a throttling error the client lowers its request rate, then raises it gradually.

The rate is calculated by botocore (CUBIC: Ha, Rhee and Xu, 2008), without its blocking wait.
"""

from __future__ import annotations

import time

from botocore.retries.adaptive import RateClocker
from botocore.retries.throttling import CubicCalculator


class MonotonicClock:
    """The monotonic clock, with the interface of botocore's ``Clock``."""

    def current_time(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()


class AdaptiveRate:
    """The rate limit of requests: none until a throttling error occurs, and never less than ``floor_per_s``."""

    def __init__(self, floor_per_s: float, clock: MonotonicClock | None = None) -> None:
        self._clock = clock or MonotonicClock()
        self._floor_per_s = floor_per_s
        self._measured = RateClocker(self._clock)
        self._cubic = CubicCalculator(floor_per_s, self._clock.current_time())
        self._limit_per_s: float | None = None
        self._next_free_s = 0.0

    def wait_s(self) -> float:
        """Reserve the next slot; returns the seconds to wait before sending."""
        if self._limit_per_s is None:
            return 0.0
        now_s = self._clock.current_time()
        starts_s = max(now_s, self._next_free_s)
        self._next_free_s = starts_s + 1 / self._limit_per_s
        return starts_s - now_s

    def answered(self, *, throttled: bool) -> None:
        """Record a response: a throttling error lowers the rate, any other response may raise it."""
        now_s, measured_per_s = self._clock.current_time(), self._measured.record()
        if throttled:
            rate_per_s = measured_per_s if self._limit_per_s is None else min(measured_per_s, self._limit_per_s)
            self._limit_per_s = max(self._floor_per_s, self._cubic.error_received(rate_per_s, now_s))
        elif self._limit_per_s is not None:
            wanted_per_s = self._cubic.success_received(now_s)
            self._limit_per_s = max(self._floor_per_s, min(wanted_per_s, 2 * measured_per_s))
