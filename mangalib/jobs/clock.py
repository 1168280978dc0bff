"""The scheduler's clock, passed in so that tests can simulate weeks."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol

_LONGEST_SLEEP_S = 30.0


class Clock(Protocol):
    """The current time, and waiting."""

    def now(self) -> datetime:
        """The current time, in UTC."""

    def sleep_until(self, moment: datetime) -> None:
        """Return at that moment or earlier."""


class WallClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """The current time, in UTC."""
        return datetime.now(UTC)

    def sleep_until(self, moment: datetime) -> None:
        """Return at that moment or after 30 s, whichever is earlier: the clock may be set meanwhile."""
        time.sleep(min(_LONGEST_SLEEP_S, max(0.0, (moment - self.now()).total_seconds())))
