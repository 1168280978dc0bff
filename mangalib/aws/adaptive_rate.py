"""Adaptive retry mode: after a throttling error this client slows itself down, and speeds up again step by step.

The rate follows botocore's own calculation (CUBIC: Ha, Rhee and Xu, 2008); only its blocking wait is not used here.
"""

from __future__ import annotations

import time

from botocore.retries.adaptive import RateClocker
from botocore.retries.throttling import CubicCalculator


class Clock:
    """Seconds that only go forward, in the form that botocore asks for."""

    def current_time(self) -> float:
        """Now."""
        return time.monotonic()


class AdaptiveRate:
    """How fast requests may leave. Without throttling: at once; a lone error must not slow a chat below ``floor_per_s``."""

    def __init__(self, floor_per_s: float, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()
        self._floor_per_s = floor_per_s
        self._measured = RateClocker(self._clock)
        self._cubic = CubicCalculator(floor_per_s, self._clock.current_time())
        self._limit_per_s: float | None = None
        self._next_free_s = 0.0

    def wait_s(self) -> float:
        """Take the next place in line; returns how long to wait until it is time to send."""
        if self._limit_per_s is None:
            return 0.0
        now_s = self._clock.current_time()
        starts_s = max(now_s, self._next_free_s)
        self._next_free_s = starts_s + 1 / self._limit_per_s
        return starts_s - now_s

    def answered(self, *, throttled: bool) -> None:
        """A request was answered; a throttling error lowers the rate, each other answer may raise it."""
        now_s, measured_per_s = self._clock.current_time(), self._measured.record()
        if throttled:
            rate_per_s = measured_per_s if self._limit_per_s is None else min(measured_per_s, self._limit_per_s)
            self._limit_per_s = max(self._floor_per_s, self._cubic.error_received(rate_per_s, now_s))
        elif self._limit_per_s is not None:
            wanted_per_s = self._cubic.success_received(now_s)
            self._limit_per_s = max(self._floor_per_s, min(wanted_per_s, 2 * measured_per_s))
