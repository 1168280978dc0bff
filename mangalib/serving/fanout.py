"""Parallel fan-out: several look-ups at once, each with its own deadline; one that fails degrades the answer only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

CANCELLED = "cancelled: another result settled the matter"


@dataclass(frozen=True)
class Branch:
    """One look-up. ``settles``: a result other than ``None`` makes the other branches needless."""

    name: str
    run: Callable[[], Awaitable[Any]]
    deadline_ms: float
    settles: bool = False


@dataclass
class Outcome:
    """What came of a branch: a value or the reason why there is none, and when it ended (monotonic seconds)."""

    value: Any = None
    error: str | None = None
    ended_s: float = 0.0


async def fan_out(branches: Sequence[Branch], *, parallel: bool = True) -> dict[str, Outcome]:
    """Run all branches side by side and wait for them, or for one that settles the matter; the rest is cancelled.

    Not ``parallel``, they run one after another: only to measure what that would cost.

    Never raises for a branch's failure. Returns an outcome for each branch, by name.
    """
    outcomes = {branch.name: Outcome(error=CANCELLED) for branch in branches}
    tasks: list[asyncio.Task[None]] = []

    async def run(branch: Branch) -> None:
        outcome = outcomes[branch.name]
        try:
            async with asyncio.timeout(branch.deadline_ms / 1000):
                outcome.value = await branch.run()
                outcome.error = None
        except TimeoutError:
            outcome.error = f"no result within {branch.deadline_ms:g} ms"
        except Exception as error:  # whatever a look-up dies of, the answer goes on without it; the outcome says why
            outcome.error = f"{type(error).__name__}: {error}"
        finally:
            outcome.ended_s = time.monotonic()
        if branch.settles and outcome.value is not None:
            for task in tasks:
                if task is not asyncio.current_task():
                    task.cancel()

    if parallel:
        async with asyncio.TaskGroup() as group:
            tasks += [group.create_task(run(branch)) for branch in branches]
        return outcomes
    for branch in branches:
        await run(branch)
        if branch.settles and outcomes[branch.name].value is not None:
            break
    return outcomes
