"""Fan-out: branches run concurrently; each has its own deadline, error and circuit breaker."""

from __future__ import annotations

import asyncio

import pytest

from mangalib.resilience import CircuitBreaker
from mangalib.serving.fan_out import Branch, fan_out


def breaker(name: str) -> CircuitBreaker:
    return CircuitBreaker(name, failures=5, pause_s=1)


async def test_a_branch_that_fails_or_is_late_leaves_the_others_alone() -> None:
    async def succeeds() -> int:
        await asyncio.sleep(0)
        return 1

    async def fails() -> None:
        raise ConnectionError("refused")

    outcomes = await fan_out(
        [
            Branch("good", succeeds, 5000, breaker("good")),
            Branch("broken", fails, 5000, breaker("broken")),
            Branch("late", asyncio.Event().wait, 20, breaker("late")),
        ]
    )
    assert outcomes["good"].value == 1
    assert "refused" in (outcomes["broken"].error or "")
    assert "20 ms" in (outcomes["late"].error or "")


async def test_a_cancelled_fan_out_leaves_no_task() -> None:
    before = asyncio.all_tasks()
    started = asyncio.Event()

    async def endless() -> None:
        started.set()
        await asyncio.Event().wait()

    running = asyncio.create_task(fan_out([Branch("endless", endless, 60_000, breaker("endless"))]))
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert asyncio.all_tasks() == before
