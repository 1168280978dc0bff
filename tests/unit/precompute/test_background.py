"""Background work yields to live queries, runs by value, and is dropped when its owner or its deadline is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from mangalib.errors import TransportError
from mangalib.precompute.background import BackgroundQueue


def work(name: str, done: list[str]) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        done.append(name)

    return run


async def worked_off(queue: BackgroundQueue) -> None:
    working = asyncio.create_task(queue.work())
    async with asyncio.timeout(5):
        while not queue.idle:
            await asyncio.sleep(0)
    working.cancel()
    await asyncio.wait([working])


async def test_the_most_valuable_work_runs_first() -> None:
    done: list[str] = []
    queue = BackgroundQueue(workers=1, quiet_s=0, on_yield=lambda: None)
    for name, value in (("cheap", 1.0), ("valuable", 9.0), ("middle", 5.0)):
        queue.submit("owner", value, work(name, done), within_s=5)
    await worked_off(queue)
    assert done == ["valuable", "middle", "cheap"]


async def test_work_of_an_owner_that_is_gone_or_past_its_deadline_is_dropped() -> None:
    done: list[str] = []
    queue = BackgroundQueue(workers=1, quiet_s=0, on_yield=lambda: None)
    queue.submit("a", 1.0, work("kept", done), within_s=5)
    queue.submit("gone", 5.0, work("discarded", done), within_s=5)
    queue.submit("a", 7.0, work("late", done), within_s=-1)
    queue.discard("gone")
    await worked_off(queue)
    assert done == ["kept"]


async def test_a_full_queue_drops_its_least_valuable_entry() -> None:
    done: list[str] = []
    queue = BackgroundQueue(workers=1, quiet_s=0, on_yield=lambda: None)
    for number in range(300):
        queue.submit("owner", float(number), work(str(number), done), within_s=5)
    await worked_off(queue)
    assert done == [str(number) for number in range(299, 43, -1)]


async def test_while_a_live_query_waits_background_work_stops_and_none_starts() -> None:
    done: list[str] = []
    yields: list[int] = []
    queue = BackgroundQueue(workers=1, quiet_s=0.05, on_yield=lambda: yields.append(queue.active))
    queue.yield_to_live()
    assert yields == [], "nothing is running"
    queue.submit("owner", 1.0, work("later", done), within_s=5)
    working = asyncio.create_task(queue.work())
    for _ in range(10):
        await asyncio.sleep(0)
    assert done == []
    async with asyncio.timeout(5):
        while not queue.idle:
            await asyncio.sleep(0.01)
    assert done == ["later"]

    started, hold = asyncio.Event(), asyncio.Event()

    async def held() -> None:
        started.set()
        await hold.wait()

    queue.submit("owner", 1.0, held, within_s=5)
    await asyncio.wait_for(started.wait(), 5)
    queue.yield_to_live()
    assert yields == [1]
    hold.set()
    working.cancel()
    await asyncio.wait([working])


async def test_work_that_fails_does_not_stop_the_queue() -> None:
    done: list[str] = []

    async def fails() -> None:
        raise TransportError("no connection")

    queue = BackgroundQueue(workers=1, quiet_s=0, on_yield=lambda: None)
    queue.submit("owner", 2.0, fails, within_s=5)
    queue.submit("owner", 1.0, work("next", done), within_s=5)
    await worked_off(queue)
    assert done == ["next"]
