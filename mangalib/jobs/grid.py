"""A notebook run once for each point of a parameter grid, on a cluster.

The name of each point's run is chosen in advance. If a worker dies, its point goes to another worker, which looks for a run of
that name first: a finished one is not repeated, and one that was interrupted is run again under the same name.
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from tqdm.auto import tqdm

from mangalib.cluster import cluster
from mangalib.errors import NotebookError
from mangalib.jobs.execute import run_under_lease
from mangalib.jobs.leases import Lease, keep_renewed, take_lease
from mangalib.jobs.parameters import Job
from mangalib.jobs.records import RUNNING, Run, RunRecord
from mangalib.jobs.runs import Runs, open_runs
from mangalib.settings import JobSettings

_POLL_S = 1.0


def grid_points(grid: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All combinations; one empty point for an empty grid. Raises ``NotebookError`` unless each value is a list."""
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise NotebookError(f"-g {name} {values!r}: expected a JSON list of values, as in [1, 2, 3]")
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def run_grid(
    jobs: Sequence[Job], url: str, settings: JobSettings, scheduler: str | None, *, progress: bool
) -> Iterator[Run]:
    """Run all jobs and yield each run when it has finished. The workers must reach ``url`` and share the leases."""
    now, grid = datetime.now(UTC), uuid.uuid4().hex[:6]
    names = [
        f"{job.notebook.stem}/{now:%Y-%m-%d}/{now:%H%M%S}-{grid}_{number:03d}" for number, job in enumerate(jobs, 1)
    ]
    with cluster(scheduler) as client:
        from distributed import as_completed

        futures = client.map(_run_point, jobs, names, url=url, settings=settings, key=names, pure=False)
        try:
            completed = as_completed(futures, with_results=True, raise_errors=False)
            for future, result in tqdm(completed, desc="grid", total=len(jobs), disable=not progress):
                if isinstance(result, Run):
                    yield result
                else:
                    yield _record_lost(jobs[names.index(future.key)], future.key, open_runs(url, settings), result)
        finally:
            client.cancel(futures)


def _run_point(job: Job, name: str, url: str, settings: JobSettings) -> Run:
    """Executed on a worker."""
    runs = open_runs(url, settings)
    with keep_renewed(_wait_for_lease(runs, job, settings), settings.job_lease_s) as lost:
        before = _record(runs, name)
        if before is not None and before.status != RUNNING:
            return Run(name, before)
        attempt = before.attempt + 1 if before is not None else 1
        return run_under_lease(job, runs, settings, lost, name=name, attempt=attempt)


def _wait_for_lease(runs: Runs, job: Job, settings: JobSettings) -> Lease:
    """The lease of the job; that of a worker that died has to expire first."""
    until_s = time.monotonic() + 2 * settings.job_lease_s
    while time.monotonic() < until_s:
        lease = runs.leases.take(job.name)
        if lease is not None:
            return lease
        time.sleep(_POLL_S)
    return take_lease(runs.leases, job.name)


def _record(runs: Runs, name: str) -> RunRecord | None:
    try:
        return runs.read_record(name)
    except NotebookError:
        return None


def _record_lost(job: Job, name: str, runs: Runs, result: Any) -> Run:
    """Record a point that no worker finished; ``result`` is Dask's exception, or its type, exception and traceback."""
    why = result[1] if isinstance(result, tuple) else result
    return runs.finish(
        runs.begin(job, name=name), error=f"no worker finished it: {type(why).__name__}: {why}", results={}
    )
