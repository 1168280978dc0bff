"""One benchmark run from beginning to end: ask a workload, store the samples, return what is reported."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pandas as pd

from mangalib.benchmark.load.runner import Runner
from mangalib.benchmark.load.workload import Conversation
from mangalib.benchmark.report import percentiles_by_intent
from mangalib.benchmark.store import Store
from mangalib.client import Client
from mangalib.errors import MangaError
from mangalib.settings import WorkloadSettings

if TYPE_CHECKING:
    from distributed import Client as Cluster

    from mangalib.benchmark.load.distributed import ClockOffset


@dataclass(frozen=True)
class BenchmarkRun:
    """A run that is in the store.

    ``samples`` has the store's columns; ``planned`` counts the questions of the workload; ``releases`` are those that answered;
    ``file`` is the run's file in the store; ``clocks`` compares the clocks of a cluster's workers with this machine's.
    """

    run_id: str
    started_at: datetime
    planned: int
    samples: pd.DataFrame
    releases: set[int]
    file: str
    clocks: dict[str, ClockOffset] = field(default_factory=dict)

    def percentiles(self) -> pd.DataFrame:
        """See :func:`percentiles_by_intent`."""
        return percentiles_by_intent(self.samples)


class BenchmarkInterruptedError(MangaError):
    """A run was cancelled; what had been answered by then is in the store, as ``run``."""

    def __init__(self, run: BenchmarkRun) -> None:
        super().__init__(f"interrupted: {len(run.samples)} of {run.planned} questions are kept")
        self.run = run


async def run_once(
    connect: Callable[[], Client],
    workload: list[Conversation],
    store: Store,
    settings: WorkloadSettings,
    *,
    cluster: Cluster | None = None,
    progress: bool = True,
) -> BenchmarkRun:
    """Ask ``workload`` over clients from ``connect``, append the samples to ``store``, and compact its older days.

    With ``cluster``, the load comes from all workers of that Dask cluster, and ``connect`` must be picklable.

    Raises
    ------
    BenchmarkInterruptedError
        The run was cancelled after the first answer.
    DataError
        This machine's clock is behind the newest run of the store.
    MangaError
        Nothing was measured.
    """
    await asyncio.to_thread(store.require_past, datetime.now(UTC), settings.clock_tolerance_s)
    runner = Runner(connect, workload, settings, progress=progress and cluster is None)
    clocks: dict[str, ClockOffset] = {}
    interrupted = False
    try:
        if cluster is None:
            await runner.run()
        else:
            from mangalib.benchmark.load.distributed import run_distributed

            clocks = await run_distributed(cluster, runner, connect, workload, settings, progress=progress)
    except asyncio.CancelledError:
        interrupted = True
    if not runner.outcomes:
        raise MangaError("interrupted before the first answer: nothing was measured")
    samples = runner.samples()
    file = store.append(samples)
    store.compact(runner.started_at.date())
    run = BenchmarkRun(runner.run_id, runner.started_at, runner.planned, samples, runner.releases, file, clocks)
    if interrupted:
        raise BenchmarkInterruptedError(run)
    return run
