"""The scheduler on a simulated clock: missed due times, retries, shared leases, and a week with a crash."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path

import pytest

from mangalib.jobs.records import KILLED, RUNNING, Run
from mangalib.jobs.runs import Runs, open_runs
from mangalib.jobs.schedule import Entry, Schedule
from mangalib.jobs.scheduler import Scheduler
from mangalib.settings import Settings
from tests.integration.jobs.conftest import SimulatedClock
from tests.small_notebooks import write_notebook

# In New York the clocks went back on Sunday, 2026-11-01, at 2 in the morning.
BACK = datetime(2026, 11, 1, tzinfo=UTC)


def entry(cron: str, zone: str = "America/New_York", name: str = "one", **more: object) -> Entry:
    return Entry.model_validate({"name": name, "notebook": "tiny", "cron": cron, "time_zone": zone, **more})


def scheduler(
    entries: list[Entry], folder: Path, runs: Runs, settings: Settings, at: datetime
) -> tuple[Scheduler, SimulatedClock, list[Run]]:
    clock, finished = SimulatedClock(at), []
    return (
        Scheduler(
            Schedule(entries, folder / "schedule.yaml", settings),
            runs,
            settings,
            clock=clock,
            on_finished=finished.append,
        ),
        clock,
        finished,
    )


def test_missed_due_times_are_caught_up_with_one_run(
    tiny: Path, tmp_path: Path, runs: Runs, settings: Settings
) -> None:
    hourly = entry("0 * * * *", "UTC")
    begin = datetime(2026, 11, 2, 0, 30, tzinfo=UTC)
    first, _, finished = scheduler([hourly], tmp_path, runs, settings, begin)
    first.run_forever(until=begin + timedelta(hours=1, minutes=10))
    assert [run.record.due_at for run in finished] == ["2026-11-02T01:00:00+00:00"]
    later, _, finished = scheduler([hourly], tmp_path, runs, settings, begin + timedelta(hours=10, minutes=10))
    later.run_forever(until=begin + timedelta(hours=11))
    assert [run.record.due_at[11:16] for run in finished] == ["10:00", "11:00"]


def test_two_schedulers_sharing_leases_run_nothing_twice(
    tiny: Path, tmp_path: Path, runs: Runs, settings: Settings
) -> None:
    begin = datetime(2026, 11, 2, 0, 30, tzinfo=UTC)
    one, clock, _ = scheduler([entry("0 * * * *", "UTC")], tmp_path, runs, settings, begin)
    other, beside, _ = scheduler(
        [entry("0 * * * *", "UTC")], tmp_path, open_runs(tmp_path / "runs", settings), settings, begin
    )
    one.run_forever(until=begin + timedelta(minutes=40))
    beside.at = clock.at
    assert other.run_due() == []
    lease = runs.leases.take("one")
    assert lease is not None
    clock.at += timedelta(hours=1)
    assert one.run_due() == [], "its lease is held elsewhere"
    lease.release()
    assert len(one.run_due()) == 1


def test_a_failed_run_is_retried_as_often_as_the_schedule_says(tmp_path: Path, runs: Runs, settings: Settings) -> None:
    flag = tmp_path / "flag"
    write_notebook(
        tmp_path / "tiny.ipynb",
        f"import pathlib\nflag = pathlib.Path({str(flag)!r})\nwas = flag.exists()\nflag.touch()\nassert was, 'not yet'",
    )
    at = datetime(2026, 11, 2, 0, 30, tzinfo=UTC)
    one_scheduler, _, _ = scheduler([entry("0 * * * *", "UTC", retries=2)], tmp_path, runs, settings, at)
    (run,) = one_scheduler.run_due(also_new=True)
    assert (run.ok, run.record.attempt) == (True, 2)
    assert sorted((line.attempt, line.status) for line in runs.index()) == [(1, "failed"), (2, "ok")]
    assert one_scheduler.run_due(also_new=True) == []


def test_a_missing_notebook_is_a_failed_run_and_other_jobs_still_run(
    tiny: Path, tmp_path: Path, runs: Runs, settings: Settings
) -> None:
    entries = [entry("0 * * * *", name="gone").model_copy(update={"notebook": "deleted"}), entry("0 * * * *")]
    one_scheduler, _, _ = scheduler(entries, tmp_path, runs, settings, datetime(2026, 11, 2, tzinfo=UTC))
    gone, other = one_scheduler.run_due(also_new=True)
    assert "deleted.ipynb: there is no such notebook" in str(gone.record.error)
    assert other.ok


def test_a_folder_that_is_not_writable_is_logged_and_the_scheduler_continues(
    tiny: Path, tmp_path: Path, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a_file").write_text("not a folder")
    one_scheduler, _, finished = scheduler(
        [entry("0 * * * *", "UTC")],
        tmp_path,
        open_runs(tmp_path / "a_file", settings),
        settings,
        datetime(2026, 11, 2, tzinfo=UTC),
    )
    assert one_scheduler.run_due(also_new=True) == []
    assert one_scheduler.failed_to_start == {"one"}
    assert "one could not start" in caplog.text
    assert finished == []


CRASHING = """
import sys
from datetime import datetime
from pathlib import Path
from mangalib.jobs.runs import open_runs
from mangalib.jobs.schedule import read_schedule
from mangalib.jobs.scheduler import Scheduler
from mangalib.settings import load_settings
from tests.integration.jobs.conftest import SimulatedClock
folder, at, until = Path(sys.argv[1]), *map(datetime.fromisoformat, sys.argv[2:])
settings = load_settings()
clock = SimulatedClock(at)
def report(run): print(clock.now().isoformat(), run.record.due_at, flush=True)
schedule = read_schedule(folder / "schedule.yaml", settings)
Scheduler(schedule, open_runs(folder / "runs", settings), settings, clock=clock, on_finished=report).run_forever(until)
"""


def simulating(folder: Path, at: datetime, until: datetime) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CRASHING, str(folder), at.isoformat(), until.isoformat()]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


@pytest.mark.timeout(600)
def test_a_week_with_a_change_of_the_clocks_a_crash_and_a_restart(tiny: Path, tmp_path: Path, runs: Runs) -> None:
    (tmp_path / "schedule.yaml").write_text(
        """jobs:
  - {name: often, notebook: tiny, cron: '0 */8 * * *', time_zone: America/New_York}
  - {name: nightly, notebook: tiny, cron: '30 1 * * *', time_zone: America/New_York, retries: 1}
  - {name: weekly, notebook: tiny, cron: '0 5 * * sun', time_zone: Asia/Tokyo}
"""
    )
    begin, end = BACK - timedelta(days=3), BACK + timedelta(days=4)
    process = simulating(tmp_path, begin, end)
    assert process.stdout is not None
    for _ in range(8):
        process.stdout.readline()
    # Kill it while the next run is in progress.
    deadline_s = time.monotonic() + 60
    while not [line for line in runs.index() if line.status == RUNNING]:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    process.kill()
    process.communicate()
    (interrupted,) = [line for line in runs.index() if line.status == RUNNING]

    restart = datetime.fromisoformat(interrupted.due_at) + timedelta(minutes=1)
    again = simulating(tmp_path, restart, end)
    reported, _ = again.communicate(timeout=400)
    assert again.returncode == 0
    assert reported.splitlines()[0].split()[1] == interrupted.due_at, "the restarted scheduler reports it"

    lines = runs.index()
    names = {"often": "0 */8 * * *", "nightly": "30 1 * * *"}
    expected = {
        (name, due.isoformat())
        for name, cron in names.items()
        for due in takewhile(lambda d: d < end, entry(cron).due_after(begin))
    }
    expected |= {
        ("weekly", due.isoformat())
        for due in takewhile(lambda d: d < end, entry("0 5 * * sun", "Asia/Tokyo").due_after(begin))
    }
    assert Counter(name for name, _ in expected) == {"often": 21, "nightly": 7, "weekly": 1}
    succeeded = Counter((line.job, line.due_at) for line in lines if line.status == "ok")
    assert max(succeeded.values()) == 1, "no due time ran twice"
    (killed,) = [line for line in lines if line.status == "failed"]
    assert (killed.name, killed.error) == (interrupted.name, KILLED)
    # Only the nightly job has retries; another job that was killed has used up its due time.
    assert set(succeeded) == expected - (set() if killed.job == "nightly" else {(killed.job, killed.due_at)})
    assert not (tmp_path / "runs" / "runs.json").read_text().count(RUNNING)
    assert json.loads((tmp_path / "runs" / "runs.json").read_text()).keys() == {line.name for line in lines}
