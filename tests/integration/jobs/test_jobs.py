"""One run of a job: its record, its lease, its time, and whatever may go wrong with it."""

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
from mangalib.jobs import execute as jobs
from mangalib.jobs.parameters import Job, job_of
from mangalib.jobs.runs import KILLED, Runs
from mangalib.settings import Settings
from tests.integration.jobs.conftest import RECORD, write_notebook

Made = Callable[..., Job]
SAYS = "print('this cell ran')"
STUCK = "import time\nwhile True: time.sleep(0.1)"


def text_of(runs: Runs, name: str) -> str:
    return runs.storage.read(f"{name}.ipynb")


def test_a_run_leaves_notebook_record_report_and_a_line_in_the_index(
    tiny: Path, runs: Runs, settings: Settings
) -> None:
    done = jobs.run_job(job_of(tiny, {"number": 7}, timeout_s=60, html=True), runs, settings)
    assert done.ok, done.record.error
    raw = json.loads(runs.storage.read(f"{done.name}.json"))
    assert (raw["notebook"], raw["parameters"], raw["status"], raw["error"]) == ("tiny", {"number": 7}, "ok", None)
    assert raw["results"] == {"headline": "number 7", "number": 7}
    assert raw["started_at"] < raw["finished_at"]
    assert "<html" in runs.storage.read(f"{done.name}.html")
    (line,) = runs.index()
    assert (line.name, line.headline, line.status, line.html) == (done.name, "number 7", "ok", True)
    assert nbformat.reads(text_of(runs, done.name), as_version=4)


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"numbr": 3}, "no parameter 'numbr'; it has: number=1"),
        ({"number": "3"}, "number='3' of tiny: expected int"),
        ({"number": True}, "expected int"),
    ],
)
def test_wrong_parameters_stop_before_anything_starts(
    parameters: dict[str, object], says: str, tiny: Path, runs: Runs
) -> None:
    with pytest.raises(NotebookError, match=says):
        job_of(tiny, parameters, timeout_s=60)
    assert runs.index() == []


def test_a_cell_that_fails_keeps_what_ran(job: Made, runs: Runs, settings: Settings) -> None:
    done = jobs.run_job(job(SAYS, RECORD, "1 / 0"), runs, settings)
    assert not done.ok
    assert done.record.error is not None
    assert "ZeroDivisionError: division by zero" in done.record.error
    assert done.record.results["number"] == 1
    assert "this cell ran" in text_of(runs, done.name)


def test_a_cell_that_never_ends_is_ended(job: Made, runs: Runs, settings: Settings) -> None:
    done = jobs.run_job(job(SAYS, STUCK, timeout_s=12), runs, settings)
    assert done.record.error == "a cell had not ended when the 12 s that the notebook may take were over"
    assert "this cell ran" in text_of(runs, done.name)


def test_the_time_is_of_the_whole_notebook(job: Made, runs: Runs, settings: Settings) -> None:
    naps = ["import time\ntime.sleep(1.5)"] * 6
    done = jobs.run_job(job(*naps, timeout_s=4), runs, settings)
    assert "may take were over" in str(done.record.error)


def test_a_kernel_that_dies_is_said(job: Made, runs: Runs, settings: Settings) -> None:
    done = jobs.run_job(job(SAYS, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"), runs, settings)
    assert done.record.error == "the kernel died (out of memory, or ended by a cell)"
    assert "this cell ran" in text_of(runs, done.name)


def test_a_notebook_that_was_deleted_is_said(tiny: Path, runs: Runs, settings: Settings) -> None:
    known = job_of(tiny, {}, timeout_s=60)
    tiny.unlink()
    with pytest.raises(NotebookError, match="there is no such notebook"):
        job_of(tiny, {}, timeout_s=60)
    done = jobs.run_job(known, runs, settings)
    assert done.record.status == "failed"
    assert "tiny.ipynb" in str(done.record.error)


def test_a_folder_that_cannot_be_written_to_is_said_before_anything_starts(
    tiny: Path, tmp_path: Path, settings: Settings
) -> None:
    (tmp_path / "a_file").write_text("not a folder")
    with pytest.raises(NotebookError, match=r"a_file"):
        jobs.run_job(job_of(tiny, {}, timeout_s=60), jobs.runs_in(tmp_path / "a_file", settings), settings)


@contextmanager
def small_files(most_bytes: int) -> Iterator[None]:
    """A disk that takes no file longer than that: the kernel of the operating system refuses, as on one that is full."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handled = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handled)


def test_a_disk_that_takes_no_more_is_said_in_the_record(job: Made, runs: Runs, settings: Settings) -> None:
    wordy = job(SAYS, "print('x' * 100_000)", "print('after')")
    with small_files(50_000):
        done = jobs.run_job(wordy, runs, settings)
    assert done.record.status == "failed"
    assert "File too large" in str(done.record.error)
    assert runs.record(done.name).status == "failed"
    assert "this cell ran" in text_of(runs, done.name), "the notebook of the last cell that could be saved is whole"
    assert not [name for name in runs.storage.names() if "/." in name and not name.startswith(".leases")]


def test_the_end_is_noted_in_the_room_kept_for_it(tiny: Path, runs: Runs, settings: Settings) -> None:
    begun = runs.begin(job_of(tiny, {}, timeout_s=60))
    # Nothing new fits any more, not even a small file; what is there can be overwritten.
    folder = Path(runs.storage.url(begun.name)).parent
    record = Path(runs.storage.url(f"{begun.name}.json"))
    assert record.stat().st_size >= 4096
    with small_files(4096):
        ended = runs.finish(begun, error="cell 3: boom", results={"much": "x" * 100_000})
    assert ended.record.status == "failed"
    kept = runs.record(begun.name)
    assert "cell 3: boom" in str(kept.error)
    assert kept.results == {}
    assert [path.name for path in folder.iterdir()] == [record.name]


def test_no_two_runs_of_one_job_at_once(tiny: Path, runs: Runs, settings: Settings) -> None:
    known = job_of(tiny, {}, timeout_s=60)
    lease = runs.leases.take(known.name)
    assert lease is not None
    with pytest.raises(JobRunningError, match="is running already"):
        jobs.run_job(known, runs, settings)
    other = jobs.run_job(job_of(tiny, {"number": 2}, timeout_s=60), runs, settings)
    assert other.ok, "with other parameters it is another job"
    lease.release()
    assert jobs.run_job(known, runs, settings).ok


def started(source: Path, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mangalib.cli", "run", str(source), "--output-dir", str(folder)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def until(holds: Callable[[], object], within_s: float = 60) -> None:
    deadline_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline_s, "it never came to that"
        time.sleep(0.05)


@pytest.mark.parametrize("moment", ["the record is there", "a cell has run", "a cell runs on"])
def test_killed_at_any_moment_the_next_start_says_so(
    moment: str, tmp_path: Path, runs: Runs, settings: Settings
) -> None:
    source = write_notebook(tmp_path / "long.ipynb", SAYS, RECORD, STUCK)
    folder = tmp_path / "runs"
    process = started(source, folder)
    kernels: list[psutil.Process] = []

    def cells_run() -> int:
        found = list(folder.glob("long/*/*.ipynb"))
        return found[0].read_text(encoding="utf-8").count('"status": "completed"') if found else 0

    if moment == "the record is there":
        until(lambda: list(folder.glob("long/*/*.json")))
    else:
        until(lambda: cells_run() >= (1 if moment == "a cell has run" else 3))
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
    assert f"{running.name}: {KILLED}" in again.stderr, "the next start says so"
    (shown,) = json.loads(again.stdout)
    assert (shown["status"], shown["error"]) == ("failed", KILLED)
    if moment != "the record is there":
        partial = nbformat.reads(text_of(runs, running.name), as_version=4)
        assert "This run did not end" in partial.cells[0].source
        assert "this cell ran" in text_of(runs, running.name)
    lease = runs.leases.take(runs.record(running.name).job)
    assert lease is not None, "the lock is gone"
    lease.release()
    assert runs.reap_orphans() == []
    until(lambda: not any(kernel.is_running() and kernel.status() != psutil.STATUS_ZOMBIE for kernel in kernels))


def test_interrupted_it_is_noted_and_nothing_is_left(tmp_path: Path, runs: Runs) -> None:
    source = write_notebook(tmp_path / "long.ipynb", SAYS, STUCK)
    process = started(source, tmp_path / "runs")
    until(lambda: [f for f in (tmp_path / "runs").glob("long/*/*.ipynb") if "this cell ran" in f.read_text()])
    kernels = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode != 0
    (line,) = runs.index()
    assert (line.status, line.error) == ("failed", "interrupted")
    until(lambda: not any(kernel.is_running() and kernel.status() != psutil.STATUS_ZOMBIE for kernel in kernels))
