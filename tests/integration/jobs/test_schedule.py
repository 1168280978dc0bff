"""The schedule's file and due times, and a scheduler on a simulated clock: a week, a change of the clocks, a crash."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise, takewhile
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from mangalib.errors import ScheduleError
from mangalib.jobs.leases import ScheduleCursor
from mangalib.jobs.records import KILLED, RUNNING, Run
from mangalib.jobs.runs import Runs, open_runs
from mangalib.jobs.schedule import Entry, Schedule, read_schedule
from mangalib.jobs.scheduler import Scheduler
from mangalib.settings import Settings
from tests.integration.jobs.conftest import SimulatedClock, write_notebook

# In New York the clocks went back on Sunday, 2026-11-01, and forward on Sunday, 2026-03-08, at 2 in the morning.
BACK, FORWARD = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 3, 8, tzinfo=UTC)


def entry(cron: str, zone: str = "America/New_York", name: str = "one", **more: object) -> Entry:
    return Entry.model_validate({"name": name, "notebook": "tiny", "cron": cron, "time_zone": zone, **more})


def count(cron: str, begin: datetime, days: int) -> int:
    end = begin + timedelta(days=days)
    return len(list(takewhile(lambda due: due < end, entry(cron).due_after(begin))))


@pytest.mark.parametrize("change", [BACK, FORWARD])
@pytest.mark.parametrize(
    ("cron", "in_a_week"),
    [("*/15 * * * *", 672), ("30 1 * * *", 7), ("30 2 * * *", 7), ("0 5 * * sun", 1), ("0 5 * * 0", 1)],
)
def test_a_week_has_as_many_due_times_whether_or_not_the_clocks_change(
    change: datetime, cron: str, in_a_week: int
) -> None:
    assert count(cron, change - timedelta(days=3, hours=1, minutes=1), 7) == in_a_week


def test_a_skipped_local_time_is_due_at_once_and_a_repeated_one_is_due_once() -> None:
    forward = next(entry("30 2 * * *").due_after(FORWARD))
    assert forward == datetime(2026, 3, 8, 7, 0, tzinfo=UTC), "at 3:00, the first local time after the gap"
    first, second = (due for due, _ in zip(entry("30 1 * * *").due_after(BACK), range(2), strict=False))
    assert second - first == timedelta(hours=25)


@pytest.mark.parametrize("cron", ["*/15 * * * *", "30 2 * * *", "0 5 * * sun"])
def test_last_due_is_the_latest_due_time_up_to_a_moment(cron: str) -> None:
    one = entry(cron)
    dues = list(takewhile(lambda due: due < BACK + timedelta(days=8), one.due_after(BACK - timedelta(days=1))))
    for due, following in pairwise(dues):
        assert one.last_due(due) == due
        assert one.last_due(following - timedelta(seconds=1)) == due


def test_the_committed_schedule_is_valid_and_runs_what_the_project_promises(settings: Settings) -> None:
    known = read_schedule(settings.notebooks_dir / "schedule.yaml", settings)
    crons = {one.notebook: (one.cron, one.time_zone) for one in known.entries}
    assert crons["04_benchmark_run"][0] == "*/15 * * * *"
    assert crons["05_regression_report"][0] == "3-59/15 * * * *"
    peak = known.entry("warming").last_due(BACK).astimezone(ZoneInfo("Asia/Tokyo"))
    assert settings.evening_peak_hour_jst - 2 <= peak.hour < settings.evening_peak_hour_jst


VALID = "jobs:\n  - name: a\n    notebook: tiny\n    cron: '* * * * *'\n"
MISTAKES = [
    ("jobs: []", "schedule.yaml: expected one key, jobs, with a list of jobs"),
    ("works: 3", "schedule.yaml: expected one key, jobs, with a list of jobs"),
    ("", "schedule.yaml: expected one key, jobs, with a list of jobs"),
    (VALID.replace("* *", "61 *", 1), r"schedule.yaml, job 'a': cron='61 \* \* \* \*': .*expected five fields"),
    ("jobs:\n  - name: a\n    notebook: tiny", "job 'a': cron: is missing"),
    ("jobs:\n  - notebook: tiny\n    cron: '* * * * *'", "job 1: name: is missing"),
    (VALID + "  - tiny\n", "job 2: job='tiny': Input should be a valid dictionary"),
    (VALID + "    crn: 1", "job 'a': crn=1: unknown field; expected one of name, notebook"),
    (VALID + "    time_zone: Tokyo", "job 'a': time_zone='Tokyo': expected a name as in Asia/Tokyo"),
    (VALID + "    time_zone: Asia", "job 'a': time_zone='Asia': expected a name as in Asia/Tokyo"),
    (VALID + "    retries: many", "job 'a': retries='many': .*integer"),
    (VALID + "    timeout_s: 0", "job 'a': timeout_s=0: .*greater than 0"),
    (VALID.replace("tiny", "gone"), "job 'a': .*gone.ipynb: there is no such notebook"),
    (VALID + "    parameters:\n      numbr: 3", "job 'a': tiny has no parameter 'numbr'; it has: number=1"),
    (VALID + VALID.removeprefix("jobs:\n"), "job 'a': name: is used 2 times"),
    ("jobs:\n  - name: [", "line 2, column"),
    (VALID + "    parameters: {when: 2024-13-45}", "schedule.yaml: month must be in"),
    (VALID.replace(": a", ": !!python/object/apply:os.system ['true']"), "could not determine a constructor"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES, ids=[message[:40] for _, message in MISTAKES])
def test_a_mistake_in_a_schedule_is_an_error_that_names_job_field_and_value(
    text: str, message: str, tiny: Path, tmp_path: Path, settings: Settings
) -> None:
    path = tmp_path / "schedule.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ScheduleError, match=message) as refused:
        read_schedule(path, settings)
    assert str(refused.value).startswith(str(path))


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


def test_a_cursor_is_readable_without_the_lease(runs: Runs) -> None:
    lease = runs.leases.take("job")
    assert lease is not None
    lease.write(ScheduleCursor("2026-11-01T00:00:00+00:00", 1))
    assert runs.leases.cursor("job").attempts == 1
    lease.release()
