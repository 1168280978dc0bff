"""A run whose load comes from many workers of a cluster: conversations are distributed, clocks compared, results merged.

A worker sends each result as it comes, so that nothing that was measured is lost when the worker dies. The questions that it
had not asked yet are not reassigned: asked late, they would be a different load from the one that is measured.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from distributed import Client as Cluster
from distributed import get_worker
from tqdm.auto import tqdm

from mangalib.benchmark.load.runner import QuestionResult, Runner
from mangalib.benchmark.load.workload import Conversation
from mangalib.client import Client
from mangalib.errors import MangaError
from mangalib.settings import WorkloadSettings

_ROUND_TRIPS = 8
_BEGIN_IN_S = 3.0
_POLL_EVERY_S = 0.5


@dataclass(frozen=True)
class ClockOffset:
    """How far a worker's clock is ahead of this machine's, and the largest error of that estimate, in s."""

    ahead_s: float
    within_s: float


def clock_offsets(cluster: Cluster) -> dict[str, ClockOffset]:
    """The clock offset of each worker, from the quickest of several round trips (Cristian, 1989)."""
    best: dict[str, ClockOffset] = {}
    for worker in cluster.scheduler_info(n_workers=-1)["workers"]:
        for _ in range(_ROUND_TRIPS):
            sent_s = time.time()
            there_s = cluster.run(time.time, workers=[worker])[worker]
            trip_s = time.time() - sent_s
            if worker not in best or trip_s / 2 < best[worker].within_s:
                best[worker] = ClockOffset(there_s - sent_s - trip_s / 2, trip_s / 2)
    return best


async def run_distributed(
    cluster: Cluster,
    runner: Runner,
    connect: Callable[[], Client],
    workload: list[Conversation],
    settings: WorkloadSettings,
    *,
    progress: bool,
) -> dict[str, ClockOffset]:
    """Ask ``workload`` from all workers and put their results into ``runner.outcomes``; returns the workers' clock offsets.

    ``runner`` itself asks nothing. Cancelled, it stops the workers and keeps the results received so far. Raises
    ``MangaError`` when no worker measured anything.
    """
    clocks = clock_offsets(cluster)
    topic = f"outcomes-{uuid.uuid4().hex}"
    begin_at_s = time.time() + _BEGIN_IN_S
    pending = {}
    for number, (worker, clock) in enumerate(sorted(clocks.items())):
        part = workload[number :: len(clocks)]
        pending[worker] = cluster.submit(
            _ask, part, connect, settings, begin_at_s + clock.ahead_s, topic, workers=[worker], pure=False
        )
    try:
        with tqdm(total=runner.planned, desc="questions", disable=not progress, leave=False) as bar:
            while pending:
                await asyncio.sleep(_POLL_EVERY_S)
                there = cluster.scheduler_info(n_workers=-1)["workers"]
                for worker, future in list(pending.items()):
                    if future.done() or worker not in there:
                        future.cancel()
                        del pending[worker]
                bar.update(len(cluster.get_events(topic)) - bar.n)
    finally:
        for future in pending.values():
            future.cancel()
        runner.outcomes = [msgspec.convert(outcome, QuestionResult) for _, outcome in cluster.get_events(topic)]
    if not runner.outcomes:
        raise MangaError("no worker measured anything")
    return clocks


def _ask(
    part: list[Conversation],
    connect: Callable[[], Client],
    settings: WorkloadSettings,
    begin_at_s: float,
    topic: str,
) -> None:
    """On a worker: ask a part of the workload, and send each result to the scheduler as it comes."""
    worker: Any = get_worker()

    def send(outcome: QuestionResult) -> None:
        worker.log_event(topic, msgspec.to_builtins(outcome))

    runner = Runner(connect, part, settings, progress=False, on_result=send)
    asyncio.run(runner.run(begin_in_s=max(0.0, begin_at_s - time.time())))
