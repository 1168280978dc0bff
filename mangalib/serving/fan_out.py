"""Parallel fan-out: several look-ups at once, each with its own deadline and circuit breaker. A failed look-up only degrades the
answer."""

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
    """The result of one look-up: a value or the reason why there is none, and when it ended (monotonic seconds)."""

    value: Any = None
    error: str | None = None
    ended_s: float = 0.0


async def fan_out(branches: Sequence[Branch], *, parallel: bool = True) -> dict[str, LookupResult]:
    """Run all branches concurrently, or one after another when not ``parallel`` (to measure what that costs).

    Returns a result for each branch, by name. A branch that fails does not raise.
    """
    results = {branch.name: LookupResult() for branch in branches}

    async def run(branch: Branch) -> None:
        result = results[branch.name]
        try:
            with branch.breaker.watch():
                async with asyncio.timeout(branch.deadline_ms / 1000):
                    result.value = await branch.run()
        except TimeoutError:
            result.error = f"no result within {branch.deadline_ms:g} ms"
        except Exception as error:  # whatever went wrong, the answer goes on without this look-up; the result says why
            result.error = f"{type(error).__name__}: {error}"
        finally:
            result.ended_s = time.monotonic()

    if parallel:
        async with asyncio.TaskGroup() as group:
            for branch in branches:
                group.create_task(run(branch))
        return results
    for branch in branches:
        await run(branch)
    return results
