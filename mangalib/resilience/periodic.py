"""Periodic refresh of something that changes elsewhere: credentials, prompts, the active release."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from mangalib.resilience.cancellation import end_if_cancelled

log = logging.getLogger(__name__)


async def try_refresh(name: str, refresh: Callable[[], Awaitable[object]]) -> bool:
    """Call ``refresh`` once and return whether it succeeded; an exception is logged as "``name`` failed" and not raised."""
    try:
        await refresh()
    except Exception as error:
        log.warning("%s failed: %s: %s", name, type(error).__name__, error)
        return False
    return True


async def refresh_periodically(name: str, every_s: float, refresh: Callable[[], Awaitable[object]]) -> None:
    """Call ``refresh`` every ``every_s`` seconds, the first time after one interval, until cancelled.

    A failed refresh never ends the loop: it is logged as by :func:`try_refresh` and tried again after the next interval.
    """
    while True:
        await asyncio.sleep(every_s)
        await try_refresh(name, refresh)
        end_if_cancelled()
