"""A run whose load comes from many workers of a cluster: conversations are dealt out, clocks compared, and outcomes merged.

A worker tells of each outcome as it comes, so that what it had measured stays when it dies. What it had not asked then is not
asked by another: late questions would be another load than the one that is measured.
"""

from __future__ import annotations

import asyncio
import time
import uuid
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
from mangalib.settings import Settings

_ROUND_TRIPS = 8
_BEGIN_IN_S = 3.0
_LOOK_EVERY_S = 0.5


@dataclass(frozen=True)
class Offset:
    """How far a worker's clock is ahead of ours, and how surely that is known, in s."""

    ahead_s: float
    within_s: float


def offsets(cluster: Cluster) -> dict[str, Offset]:
    """The clock of each worker beside ours, by the quickest of several round trips (Cristian, 1989)."""
    best: dict[str, Offset] = {}
    for worker in cluster.scheduler_info(n_workers=-1)["workers"]:
        for _ in range(_ROUND_TRIPS):
            sent_s = time.time()
            there_s = cluster.run(time.time, workers=[worker])[worker]
            trip_s = time.time() - sent_s
            if worker not in best or trip_s / 2 < best[worker].within_s:
                best[worker] = Offset(there_s - sent_s - trip_s / 2, trip_s / 2)
    return best


def run_distributed(
    cluster: Cluster, workload: list[Conversation], url: str, token: str, settings: Settings, *, progress: bool
) -> tuple[Runner, dict[str, Offset]]:
    """Ask everything from all workers; returns the run with the merged outcomes, and how the clocks compared.

    Raises ``MangaError`` when no worker measured anything.
    """
    clocks = offsets(cluster)
    runner = Runner(lambda: Client(url, token, settings=settings), workload, settings, progress=False)
    topic = f"outcomes-{uuid.uuid4().hex}"
    begin_at_s = time.time() + _BEGIN_IN_S
    pending = {}
    for number, (worker, clock) in enumerate(sorted(clocks.items())):
        part = workload[number :: len(clocks)]
        pending[worker] = cluster.submit(
            _ask, part, url, token, settings, begin_at_s + clock.ahead_s, topic, workers=[worker], pure=False
        )
    with tqdm(total=runner.planned, desc="questions", disable=not progress, leave=False) as bar:
        while pending:
            time.sleep(_LOOK_EVERY_S)
            there = cluster.scheduler_info(n_workers=-1)["workers"]
            for worker, future in list(pending.items()):
                if future.done() or worker not in there:
                    future.cancel()
                    del pending[worker]
            bar.update(len(cluster.get_events(topic)) - bar.n)
    runner.outcomes = [msgspec.convert(outcome, QuestionResult) for _, outcome in cluster.get_events(topic)]
    if not runner.outcomes:
        raise MangaError("no worker measured anything")
    return runner, clocks


def _ask(part: list[Conversation], url: str, token: str, settings: Settings, begin_at_s: float, topic: str) -> None:
    """On a worker."""
    worker: Any = get_worker()

    def tell(outcome: QuestionResult) -> None:
        worker.log_event(topic, msgspec.to_builtins(outcome))

    runner = Runner(lambda: Client(url, token, settings=settings), part, settings, progress=False, tell=tell)
    asyncio.run(runner.run(begin_in_s=max(0.0, begin_at_s - time.time())))
