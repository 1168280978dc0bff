"""An allowance of extra requests: a share of the ordinary ones, so that trying again never becomes a storm.

What is left over is kept up to ``burst`` (a token bucket, as the retry budgets of Finagle and of "Addressing Cascading
Failures", Ulrich 2016).
"""

from __future__ import annotations


class RetryBudget:
    """At most ``burst`` extra requests at once, and in the long run ``share`` of the ordinary ones."""

    def __init__(self, share: float, burst: int) -> None:
        self._share = share
        self._burst = burst
        self._left = float(burst) if share else 0.0

    def deposit(self) -> None:
        """An ordinary request was made."""
        self._left = min(self._burst, self._left + self._share)

    def withdraw(self) -> bool:
        """One extra request, if it is allowed."""
        # A share such as 0.1 is not exact in binary: ten of them must be worth one.
        if self._left < 1 - 1e-9:
            return False
        self._left -= 1
        return True
