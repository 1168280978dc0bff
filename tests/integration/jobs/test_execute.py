"""One run of a job: its record, its lease, its time-out, and each way in which it can fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import psutil
import pytest

from mangalib.errors import JobRunningError, NotebookError
from mangalib.jobs.execute import run_job
from mangalib.jobs.orphans import reap_orphans
from mangalib.jobs.parameters import Job, job_of
from mangalib.jobs.records import KILLED
from mangalib.jobs.runs import Runs, open_runs
from mangalib.settings import Settings
from tests.small_notebooks import RECORD, write_notebook

MakeJob = Callable[..., Job]
PRINTS = "print('this cell ran')"
STUCK = "import time\nwhile True: time.sleep(0.1)"


def text_of(runs: Runs, name: str) -> str:
    return runs.storage.read(f"{name}.ipynb")


def test_a_run_leaves_notebook_record_report_and_index_entry(tiny: Path, runs: Runs, settings: Settings) -> None:
    done = run_job(job_of(tiny, {"number": 7}, timeout_s=60, html=True), runs, settings)
    assert done.ok, done.record.error
    raw = json.loads(runs.storage.read(f"{done.name}.json"))
    assert (raw["notebook"], raw["parameters"], raw["status"], raw["error"]) == ("tiny", {"number": 7}, "ok", None)
    assert raw["results"] == {"headline": "number 7", "number": 7}
    assert raw["started_at"] < raw["finished_at"]
    assert "<html" in runs.storage.read(f"{done.name}.html")
    (summary,) = runs.index()
    assert (summary.name, summary.headline, summary.status, summary.html) == (done.name, "number 7", "ok", True)
    assert nbformat.reads(text_of(runs, done.name), as_version=4)


def test_a_failed_cell_keeps_the_output_of_the_cells_before_it(job: MakeJob, runs: Runs, settings: Settings) -> None:
    done = run_job(job(PRINTS, RECORD, "1 / 0"), runs, settings)
    assert not done.ok
    assert done.record.error is not None
    assert "ZeroDivisionError: division by zero" in done.record.error
    assert done.record.results["number"] == 1
    assert "this cell ran" in text_of(runs, done.name)


def test_a_cell_that_does_not_finish_times_out(job: MakeJob, runs: Runs, settings: Settings) -> None:
    done = run_job(job(PRINTS, STUCK, timeout_s=12), runs, settings)
    assert done.record.error == "timed out: a cell was still running after 12 s (timeout_s of the job)"
    assert "this cell ran" in text_of(runs, done.name)


def test_the_time_out_is_for_the_whole_notebook(job: MakeJob, runs: Runs, settings: Settings) -> None:
    naps = ["import time\ntime.sleep(1.5)"] * 6
    done = run_job(job(*naps, timeout_s=4), runs, settings)
    assert str(done.record.error).startswith("timed out")


def test_a_dead_kernel_is_in_the_record(job: MakeJob, runs: Runs, settings: Settings) -> None:
    done = run_job(job(PRINTS, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"), runs, settings)
    assert done.record.error == "the kernel died (out of memory, or ended by a cell)"
    assert "this cell ran" in text_of(runs, done.name)


def test_a_deleted_notebook_is_in_the_record(tiny: Path, runs: Runs, settings: Settings) -> None:
    known = job_of(tiny, {}, timeout_s=60)
    tiny.unlink()
    with pytest.raises(NotebookError, match="there is no such notebook"):
        job_of(tiny, {}, timeout_s=60)
    done = run_job(known, runs, settings)
    assert done.record.status == "failed"
    assert "tiny.ipynb" in str(done.record.error)


def test_a_folder_that_is_not_writable_is_an_error_before_anything_starts(
    tiny: Path, tmp_path: Path, settings: Settings
) -> None:
    (tmp_path / "a_file").write_text("not a folder")
    with pytest.raises(NotebookError, match=r"a_file"):
        run_job(job_of(tiny, {}, timeout_s=60), open_runs(tmp_path / "a_file", settings), settings)


@contextmanager
def small_files(max_bytes: int) -> Iterator[None]:
    """The operating system refuses to write files beyond that size, as on a full disk."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handled = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handled)


def test_a_full_disk_is_in_the_record(job: MakeJob, runs: Runs, settings: Settings) -> None:
    verbose = job(PRINTS, "print('x' * 100_000)", "print('after')")
    with small_files(50_000):
        done = run_job(verbose, runs, settings)
    assert done.record.status == "failed"
    assert "File too large" in str(done.record.error)
    assert runs.read_record(done.name).status == "failed"
    assert "this cell ran" in text_of(runs, done.name), "the notebook saved last is complete"
    assert not [name for name in runs.storage.names() if "/." in name and not name.startswith(".leases")]


def test_on_a_full_disk_the_end_of_a_run_is_recorded_in_reserved_space(
    tiny: Path, runs: Runs, settings: Settings
) -> None:
    started = runs.begin(job_of(tiny, {}, timeout_s=60))
    # No new file can be written, but an existing one can be overwritten.
    folder = Path(runs.storage.url(started.name)).parent
    record = Path(runs.storage.url(f"{started.name}.json"))
    assert record.stat().st_size >= 4096
    with small_files(4096):
        ended = runs.finish(started, error="cell 3: boom", results={"much": "x" * 100_000})
    assert ended.record.status == "failed"
    kept = runs.read_record(started.name)
    assert "cell 3: boom" in str(kept.error)
    assert kept.results == {}
    assert [path.name for path in folder.iterdir()] == [record.name]


def test_two_runs_of_one_job_exclude_each_other(tiny: Path, runs: Runs, settings: Settings) -> None:
    known = job_of(tiny, {}, timeout_s=60)
    lease = runs.leases.take(known.name)
    assert lease is not None
    with pytest.raises(JobRunningError, match="is already running"):
        run_job(known, runs, settings)
    other = run_job(job_of(tiny, {"number": 2}, timeout_s=60), runs, settings)
    assert other.ok, "with other parameters it is another job"
    lease.release()
    assert run_job(known, runs, settings).ok


def start_command(source: Path, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mangalib.cli", "run", str(source), "--output-dir", str(folder)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_until(holds: Callable[[], object], within_s: float = 60) -> None:
    deadline_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline_s, f"not true within {within_s:g} s"
        time.sleep(0.05)


@pytest.mark.parametrize("moment", ["the record is there", "a cell has run", "a cell runs on"])
def test_a_killed_run_is_reaped_by_the_next_command(
    moment: str, tmp_path: Path, runs: Runs, settings: Settings
) -> None:
    source = write_notebook(tmp_path / "long.ipynb", PRINTS, RECORD, STUCK)
    folder = tmp_path / "runs"
    process = start_command(source, folder)
    kernels: list[psutil.Process] = []

    def cells_run() -> int:
        saved = list(folder.glob("long/*/*.ipynb"))
        return saved[0].read_text(encoding="utf-8").count('"status": "completed"') if saved else 0

    if moment == "the record is there":
        wait_until(lambda: list(folder.glob("long/*/*.json")))
    else:
        wait_until(lambda: cells_run() >= (1 if moment == "a cell has run" else 3))
        kernels = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()

    (running,) = runs.index()
    assert running.status == "running"
    again = subprocess.run(
        [sys.executable, "-m", "mangalib.cli", "runs", "--output-dir", str(folder), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"{running.name}: {KILLED}" in again.stderr, "the next command reports it"
    (shown,) = json.loads(again.stdout)
    assert (shown["status"], shown["error"]) == ("failed", KILLED)
    if moment != "the record is there":
        partial = nbformat.reads(text_of(runs, running.name), as_version=4)
        assert "This run did not finish" in partial.cells[0].source
        assert "this cell ran" in text_of(runs, running.name)
    lease = runs.leases.take(runs.read_record(running.name).job)
    assert lease is not None, "the lock ended with its process"
    lease.release()
    assert reap_orphans(runs) == []
    wait_until(lambda: not any(kernel.is_running() and kernel.status() != psutil.STATUS_ZOMBIE for kernel in kernels))


def test_an_interrupted_run_is_recorded_and_leaves_no_kernel(tmp_path: Path, runs: Runs) -> None:
    source = write_notebook(tmp_path / "long.ipynb", PRINTS, STUCK)
    process = start_command(source, tmp_path / "runs")
    wait_until(lambda: [f for f in (tmp_path / "runs").glob("long/*/*.ipynb") if "this cell ran" in f.read_text()])
    kernels = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode != 0
    (summary,) = runs.index()
    assert (summary.status, summary.error) == ("failed", "interrupted")
    wait_until(lambda: not any(kernel.is_running() and kernel.status() != psutil.STATUS_ZOMBIE for kernel in kernels))
