"""Executes a job: its notebook, headless by papermill, under the job's lease and within its time-out.

What a run leaves is the executed notebook, saved after each cell, and the run's record.
"""

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
from mangalib.jobs.html import report_html
from mangalib.jobs.leases import keep_renewed, take_lease
from mangalib.jobs.parameters import Job
from mangalib.jobs.records import Run
from mangalib.jobs.results import RESULTS_VARIABLE
from mangalib.jobs.runs import Runs
from mangalib.settings import JobSettings, changed_environment, working_folder
from mangalib.storage import write_atomically

log = logging.getLogger(__name__)


class _AtomicHandler(LocalHandler):  # type: ignore[misc]
    """Papermill's handler of local files, writing atomically: killed while it writes, it leaves the notebook saved before."""

    def write(self, buf: str, path: str) -> None:
        write_atomically(Path(path), buf)


# Papermill finds a handler by how the path begins; ours are absolute.
papermill_io.register("/", _AtomicHandler())


def run_job(job: Job, runs: Runs, settings: JobSettings) -> Run:
    """Run a job now. A failed cell, a time-out or a dead kernel is in the record, and the cells before it are kept.

    Raises ``JobRunningError`` while the same job is running, and ``NotebookError`` when its record cannot be written; then
    nothing has started.
    """
    with keep_renewed(take_lease(runs.leases, job.name), settings.job_lease_s) as lost:
        return run_under_lease(job, runs, settings, lost)


def run_under_lease(
    job: Job,
    runs: Runs,
    settings: JobSettings,
    lost: threading.Event,
    *,
    name: str | None = None,
    due_at: str = "",
    attempt: int = 1,
) -> Run:
    """Run a job whose lease the caller holds; ``lost`` is set when the lease was lost."""
    started = runs.begin(job, name=name, due_at=due_at, attempt=attempt)
    error: str | None = "interrupted"
    html = False
    with tempfile.TemporaryDirectory(prefix="mangalib-run-") as scratch:
        results_file = Path(scratch) / "results.json"
        output = runs.storage.url(f"{started.name}.ipynb")
        try:
            error = _execute(job, output, results_file, lost, settings)
            if job.html:
                runs.storage.write(f"{started.name}.html", report_html(runs.storage.read(f"{started.name}.ipynb")))
                html = True
        except OSError as failure:
            error = f"{error or 'the notebook ran'}; its report could not be written: {failure}"
        finally:
            results = json.loads(results_file.read_text(encoding="utf-8")) if results_file.exists() else {}
            finished = runs.finish(started, error=error, results=results, html=html)
    return finished


def _execute(job: Job, output: str, results_file: Path, lost: threading.Event, settings: JobSettings) -> str | None:
    """What went wrong, or ``None``."""
    deadline_s = time.monotonic() + job.timeout_s

    def remaining_s(cell: object) -> float:
        if lost.is_set():
            raise NotebookError("the lease was lost, and another machine may be running the job")
        return max(0.1, deadline_s - time.monotonic())

    try:
        boto3_endpoint = {"BOTO3_ENDPOINT_URL": settings.aws_url} if settings.aws_url else {}
        with changed_environment({RESULTS_VARIABLE: str(results_file), **boto3_endpoint}):
            _run_notebook(job, output, remaining_s, results_file.with_name("kernel.json"))
    except PapermillExecutionError as failure:
        return f"cell {failure.exec_count}: {failure.ename}: {failure.evalue}"
    except CellTimeoutError:
        return f"timed out: a cell was still running after {job.timeout_s:g} s (timeout_s of the job)"
    except DeadKernelError:
        return "the kernel died (out of memory, or ended by a cell)"
    except OSError as failure:
        return f"the executed notebook could not be saved: {failure}"
    except Exception as failure:  # any other reason goes into the record too
        log.exception("%s could not be run", job.notebook.name)
        return f"{type(failure).__name__}: {failure}"
    return None


def _run_notebook(job: Job, output: str, remaining_s: Callable[[object], float], connection_file: Path) -> None:
    # The kernel's sockets are files that only this user may open; over TCP, other users of this machine could connect. Their
    # names derive from the connection file; without one, all kernels in a folder would share the same sockets.
    kernel = {"transport": "ipc", "connection_file": str(connection_file)}
    papermill.execute_notebook(
        str(job.notebook),
        output,
        parameters=dict(job.parameters),
        cwd=str(working_folder(job.notebook)),
        timeout_func=remaining_s,
        # Without its kernel a widget shows nothing, and its state holds what users typed and the answers they got.
        store_widget_state=False,
        config=Config({"KernelManager": kernel}),
    )
