"""Parallel fan-out: several look-ups at once, each with its own deadline; one that fails degrades the answer only, and one
that keeps failing is not waited for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mangalib.resilience import CircuitBreaker


@dataclass(frozen=True)
class Branch:
    """One look-up."""

    name: str
    run: Callable[[], Awaitable[Any]]
    deadline_ms: float
    breaker: CircuitBreaker


@dataclass
class LookupResult:
    """What came of a branch: a value or the reason why there is none, and when it ended (monotonic seconds)."""

    value: Any = None
    error: str | None = None
    ended_s: float = 0.0


async def fan_out(branches: Sequence[Branch], *, parallel: bool = True) -> dict[str, LookupResult]:
    """Run all branches side by side and wait for them.

    Not ``parallel``, they run one after another: only to measure what that would cost.

    Never raises for a branch's failure. Returns an outcome for each branch, by name.
    """
    outcomes = {branch.name: LookupResult() for branch in branches}

    async def run(branch: Branch) -> None:
        outcome = outcomes[branch.name]
        try:
            with branch.breaker.watch():
                async with asyncio.timeout(branch.deadline_ms / 1000):
                    outcome.value = await branch.run()
        except TimeoutError:
            outcome.error = f"no result within {branch.deadline_ms:g} ms"
        except Exception as error:  # whatever a look-up dies of, the answer goes on without it; the outcome says why
            outcome.error = f"{type(error).__name__}: {error}"
        finally:
            outcome.ended_s = time.monotonic()

    if parallel:
        async with asyncio.TaskGroup() as group:
            for branch in branches:
                group.create_task(run(branch))
        return outcomes
    for branch in branches:
        await run(branch)
    return outcomes
