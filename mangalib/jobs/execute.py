"""Runs a job: its notebook headless by papermill, under its lease and within its time; leaves the executed notebook, saved
after each cell, and the result record."""

from __future__ import annotations

import json
import logging
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import papermill
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError
from papermill.iorw import LocalHandler, papermill_io
from traitlets.config import Config

from mangalib.errors import NotebookError
from mangalib.jobs.html import report_page
from mangalib.jobs.leases import hold, kept, leases_of
from mangalib.jobs.parameters import PROJECT, Job
from mangalib.jobs.results import RESULTS_VARIABLE
from mangalib.jobs.runs import Run, Runs
from mangalib.settings import Settings, changed_environment
from mangalib.storage import write_atomically

log = logging.getLogger(__name__)

RUNS = PROJECT / "papermill_runs"
_LEASES = ".leases"


class _WholeFiles(LocalHandler):  # type: ignore[misc]
    """Papermill's handler of files, so that one that is cut off while it writes leaves the notebook of the cell before."""

    def write(self, buf: str, path: str) -> None:
        write_atomically(Path(path), buf)


# Papermill looks a handler up by how the path begins; ours are absolute.
papermill_io.register("/", _WholeFiles())


def runs_in(url: str | Path, settings: Settings) -> Runs:
    """The runs in a folder or under ``s3://…``, with the leases that the settings name."""
    folder = RUNS if "://" in str(url) else Path(url)
    return Runs(url, leases_of(settings, folder / _LEASES), settings)


def run_job(job: Job, runs: Runs, settings: Settings, *, name: str | None = None) -> Run:
    """Run a job now. A cell that fails, takes too long or kills its kernel is in the record, with all that ran before it.

    Raises ``JobRunningError`` while the same job runs, and ``NotebookError`` when the place takes no run; then nothing has
    started.
    """
    with kept(hold(runs.leases, job.name), settings.job_lease_s) as lost:
        return run_under_lease(job, runs, settings, lost, name=name)


def run_under_lease(
    job: Job,
    runs: Runs,
    settings: Settings,
    lost: threading.Event,
    *,
    name: str | None = None,
    due_at: str = "",
    attempt: int = 1,
) -> Run:
    """The same for a caller that has the lease; ``lost`` is set when it has it no more."""
    started = runs.begin(job, name=name, due_at=due_at, attempt=attempt)
    error: str | None = "interrupted"
    html = False
    with tempfile.TemporaryDirectory(prefix="mangalib-run-") as scratch:
        results_file = Path(scratch) / "results.json"
        output = runs.storage.url(f"{started.name}.ipynb")
        try:
            error = _execute(job, output, results_file, lost, settings)
            if job.html:
                runs.storage.write(f"{started.name}.html", report_page(runs.storage.read(f"{started.name}.ipynb")))
                html = True
        except OSError as failure:
            error = f"{error or 'it ran'}; what it left could not be written: {failure}"
        finally:
            results = json.loads(results_file.read_text(encoding="utf-8")) if results_file.exists() else {}
            ended = runs.finish(started, error=error, results=results, html=html)
    return ended


def _execute(job: Job, output: str, results_file: Path, lost: threading.Event, settings: Settings) -> str | None:
    """What went wrong, or ``None``."""
    until_s = time.monotonic() + job.timeout_s

    def remaining_s(cell: object) -> float:
        if lost.is_set():
            raise NotebookError("its lease was lost, and another may run the job by now")
        return max(0.1, until_s - time.monotonic())

    try:
        boto3_endpoint = {"BOTO3_ENDPOINT_URL": settings.aws_url} if settings.aws_url else {}
        with changed_environment({RESULTS_VARIABLE: str(results_file), **boto3_endpoint}):
            _papermill(job, output, remaining_s, results_file.with_name("kernel.json"))
    except PapermillExecutionError as failure:
        return f"cell {failure.exec_count}: {failure.ename}: {failure.evalue}"
    except CellTimeoutError:
        return f"a cell had not ended when the {job.timeout_s:g} s that the notebook may take were over"
    except DeadKernelError:
        return "the kernel died (out of memory, or ended by a cell)"
    except OSError as failure:
        return f"what ran could not be saved: {failure}"
    except Exception as failure:  # whatever else a notebook may die of: said in the record
        log.exception("%s could not be run", job.notebook.name)
        return f"{type(failure).__name__}: {failure}"
    return None


def _papermill(job: Job, output: str, remaining_s: Callable[[object], float], connection_file: Path) -> None:
    # A kernel's sockets as files of its owner: over TCP, others on this machine could listen in. They are named after the
    # connection file; without one all kernels of a folder would meet on the same sockets.
    kernel = {"transport": "ipc", "connection_file": str(connection_file)}
    papermill.execute_notebook(
        str(job.notebook),
        output,
        parameters=dict(job.parameters),
        cwd=str(job.notebook.parent),
        timeout_func=remaining_s,
        # A widget without its kernel is of no use, and its state is what somebody typed and was told.
        store_widget_state=False,
        config=Config({"KernelManager": kernel}),
    )
