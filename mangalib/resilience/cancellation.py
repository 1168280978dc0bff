"""A cancellation that comes while redis-py works may be swallowed there; it is made good at the next step."""

from __future__ import annotations

import asyncio


def end_if_cancelled() -> None:
    """Raise ``CancelledError`` when the running task was told to end and has not yet."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
