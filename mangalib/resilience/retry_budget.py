"""Retry budget: retries are limited to a share of the ordinary requests, so that they never multiply the load.

A token bucket, as in Finagle's retry budgets and in "Addressing Cascading Failures" (Ulrich, 2016).
"""

from __future__ import annotations


class RetryBudget:
    """Allows ``burst`` extra requests at once, and in the long run ``share`` of the ordinary ones; a share of 0 allows none."""

    def __init__(self, share: float, burst: int) -> None:
        self._share = share
        self._burst = burst
        self._balance = float(burst) if share else 0.0

    def deposit(self) -> None:
        """Count one ordinary request."""
        self._balance = min(self._burst, self._balance + self._share)

    def withdraw(self) -> bool:
        """Take one extra request from the budget; returns whether it is allowed."""
        # A share such as 0.1 is not exact in binary, but ten deposits of it must allow one retry.
        if self._balance < 1 - 1e-9:
            return False
        self._balance -= 1
        return True
