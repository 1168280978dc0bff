"""Retention: which runs are old or many enough to be deleted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

from mangalib.jobs.records import RUNNING, RunSummary
from mangalib.jobs.runs import Runs
from mangalib.settings import RunSettings


def prune(runs: Runs, settings: RunSettings, now: datetime) -> list[str]:
    """Delete the runs that retention does not keep; returns their names."""
    names = expired(runs.index(), settings, now)
    for name in names:
        runs.delete(name)
    return names


def expired(summaries: Sequence[RunSummary], settings: RunSettings, now: datetime) -> list[str]:
    """Names of the runs older than ``keep_runs_days``, or beyond the newest ``keep_runs`` of their notebook.

    A run in progress, an unacknowledged failure, and the newest run of each job never expire. ``summaries`` are the newest first.
    """
    oldest = (now - timedelta(days=settings.keep_runs_days)).isoformat()
    count: Counter[str] = Counter()
    jobs: set[str] = set()
    names = []
    for run in summaries:
        count[run.notebook] += 1
        beyond = run.started_at < oldest or count[run.notebook] > settings.keep_runs
        if beyond and run.job in jobs and run.status != RUNNING and not run.unacknowledged:
            names.append(run.name)
        jobs.add(run.job)
    return names
