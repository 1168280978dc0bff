"""Orphans: runs whose process was killed. Their records say running, but their leases are free."""

from __future__ import annotations

import nbformat

from mangalib.jobs.records import KILLED, RUNNING, Run, RunSummary
from mangalib.jobs.runs import Runs
from mangalib.storage import Storage


def reap_orphans(runs: Runs) -> list[Run]:
    """Mark each orphan as failed and return it. What it had executed is kept."""
    reaped = [_reap(runs, summary) for summary in runs.index() if summary.status == RUNNING]
    return [run for run in reaped if run is not None]


def _reap(runs: Runs, summary: RunSummary) -> Run | None:
    lease = runs.leases.take(summary.job)
    if lease is None:
        return None
    try:
        # It may have ended between the index and the lease.
        record = runs.read_record(summary.name)
        if record.status != RUNNING:
            return None
        _mark_incomplete(runs.storage, f"{summary.name}.ipynb")
        return runs.finish(Run(summary.name, record), error=KILLED, results=record.results)
    finally:
        lease.release()


def _mark_incomplete(storage: Storage, name: str) -> None:
    try:
        notebook = nbformat.reads(storage.read(name), as_version=4)
    except FileNotFoundError:
        return
    notebook.metadata.setdefault("papermill", {})["exception"] = True
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell(f"**This run did not finish.** {KILLED}."))
    storage.write(name, nbformat.writes(notebook))
