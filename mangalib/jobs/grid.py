"""A notebook run once for each point of a grid, on a cluster.

Each point has its run's name from the start. A worker that dies takes its point to another one, which looks under that name
first: what had finished is not run again, and what was cut off is run anew under the same name.
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from distributed import as_completed
from tqdm.auto import tqdm

from mangalib.cluster import cluster
from mangalib.errors import NotebookError
from mangalib.jobs.execute import run_under_lease, runs_in
from mangalib.jobs.leases import Lease, hold, kept
from mangalib.jobs.parameters import Job
from mangalib.jobs.runs import RUNNING, Record, Run, Runs
from mangalib.settings import Settings

_LOOK_EVERY_S = 1.0


def points_of(grid: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All combinations; one empty point for an empty grid. Raises ``NotebookError`` for what is not a list of values."""
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise NotebookError(f"-g {name} {values!r}: expected a JSON list of values, as in [1, 2, 3]")
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def run_grid(
    jobs: Sequence[Job], url: str, settings: Settings, scheduler: str | None, *, progress: bool
) -> Iterator[Run]:
    """Run all jobs and yield each run when it has ended. The workers must reach ``url``, and share the leases."""
    now, grid = datetime.now(UTC), uuid.uuid4().hex[:6]
    names = [
        f"{job.notebook.stem}/{now:%Y-%m-%d}/{now:%H%M%S}-{grid}_{number:03d}" for number, job in enumerate(jobs, 1)
    ]
    with cluster(scheduler) as client:
        futures = client.map(_point, jobs, names, url=url, settings=settings, key=names, pure=False)
        try:
            ended = as_completed(futures, with_results=True, raise_errors=False)
            for future, found in tqdm(ended, desc="grid", total=len(jobs), disable=not progress):
                job, name = jobs[names.index(future.key)], future.key
                yield found if isinstance(found, Run) else _lost(job, name, url, settings, found)
        finally:
            client.cancel(futures)


def _point(job: Job, name: str, url: str, settings: Settings) -> Run:
    """On a worker."""
    runs = runs_in(url, settings)
    with kept(_patiently(runs, job, settings), settings.job_lease_s) as lost:
        before = _record(runs, name)
        if before is not None and before.status != RUNNING:
            return Run(name, before)
        attempt = before.attempt + 1 if before is not None else 1
        return run_under_lease(job, runs, settings, lost, name=name, attempt=attempt)


def _patiently(runs: Runs, job: Job, settings: Settings) -> Lease:
    """The lease of the job: one of a worker that died runs out first."""
    until_s = time.monotonic() + 2 * settings.job_lease_s
    while time.monotonic() < until_s:
        lease = runs.leases.take(job.name)
        if lease is not None:
            return lease
        time.sleep(_LOOK_EVERY_S)
    return hold(runs.leases, job.name)


def _record(runs: Runs, name: str) -> Record | None:
    try:
        return runs.record(name)
    except NotebookError:
        return None


def _lost(job: Job, name: str, url: str, settings: Settings, found: Any) -> Run:
    """A point that no worker brought to an end."""
    why = found[1] if isinstance(found, tuple) else found
    runs = runs_in(url, settings)
    return runs.finish(runs.begin(job, name=name), error=f"no worker ran it: {type(why).__name__}: {why}", results={})
