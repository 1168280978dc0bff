"""The schedule's file and times, and a scheduler whose clock is injected: a week, a change of the clocks, a crash."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise, takewhile
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from mangalib.errors import ScheduleError
from mangalib.jobs import execute as jobs
from mangalib.jobs.leases import ScheduleCursor
from mangalib.jobs.parameters import Job
from mangalib.jobs.runs import KILLED, RUNNING, Run, Runs
from mangalib.jobs.schedule import DEFAULT, Entry, Schedule, read_schedule
from mangalib.jobs.scheduler import Scheduler
from mangalib.settings import Settings
from tests.integration.jobs.conftest import Simulated, write_notebook

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
def test_a_week_has_as_many_runs_as_the_cron_says_whatever_the_clocks_do(
    change: datetime, cron: str, in_a_week: int
) -> None:
    assert count(cron, change - timedelta(days=3, hours=1, minutes=1), 7) == in_a_week


def test_a_time_that_does_not_exist_is_made_up_for_and_one_that_is_there_twice_runs_once() -> None:
    forward = next(entry("30 2 * * *").due_after(FORWARD))
    assert forward == datetime(2026, 3, 8, 7, 0, tzinfo=UTC), "at 3:00, as soon as there is a time again"
    first, second = (due for due, _ in zip(entry("30 1 * * *").due_after(BACK), range(2), strict=False))
    assert second - first == timedelta(hours=25)


@pytest.mark.parametrize("cron", ["*/15 * * * *", "30 2 * * *", "0 5 * * sun"])
def test_the_last_due_time_is_the_one_before_the_next(cron: str) -> None:
    one = entry(cron)
    dues = list(takewhile(lambda due: due < BACK + timedelta(days=8), one.due_after(BACK - timedelta(days=1))))
    for due, following in pairwise(dues):
        assert one.last_due(due) == due
        assert one.last_due(following - timedelta(seconds=1)) == due


def test_the_projects_own_schedule_is_right_and_does_what_is_asked(settings: Settings) -> None:
    known = read_schedule(DEFAULT, settings)
    crons = {one.notebook: (one.cron, one.time_zone) for one in known.entries}
    assert crons["04_benchmark_run"][0] == "*/15 * * * *"
    assert crons["05_regression_report"][0] == "3-59/15 * * * *"
    peak = known.entry("warming").last_due(BACK).astimezone(ZoneInfo("Asia/Tokyo"))
    assert settings.evening_peak_hour_jst - 2 <= peak.hour < settings.evening_peak_hour_jst


RIGHT = "jobs:\n  - name: a\n    notebook: tiny\n    cron: '* * * * *'\n"
WRONG = [
    ("jobs: []", "line 1: jobs: expected a list of jobs"),
    ("works: 3", "line 1: expected one key, jobs"),
    (RIGHT.replace("* *", "61 *", 1), r"line 4: cron='61 \* \* \* \*': .*expected five fields"),
    ("jobs:\n  - name: a\n    notebook: tiny", "line 2: cron: is missing"),
    (RIGHT + "    crn: 1", "line 5: crn=1: there is no such field; there are: name, notebook"),
    (RIGHT + "    time_zone: Tokyo", "line 5: time_zone='Tokyo': expected a name as in Asia/Tokyo"),
    (RIGHT + "    retries: many", "line 5: retries='many': .*integer"),
    (RIGHT.replace("tiny", "gone"), "line 3: .*gone.ipynb: there is no such notebook"),
    (RIGHT + "    parameters:\n      numbr: 3", "line 5: tiny has no parameter 'numbr'; it has: number=1"),
    (RIGHT + RIGHT.removeprefix("jobs:\n"), "line 5: name='a': is taken by line 2"),
    ("jobs:\n  - name: [", "line 2, column"),
    (RIGHT.replace(": a", ": !!python/object/apply:os.system ['true']"), "line 2: could not determine a constructor"),
]


@pytest.mark.parametrize(("text", "says"), WRONG, ids=[says[:30] for _, says in WRONG])
def test_what_is_wrong_is_said_with_its_line(
    text: str, says: str, tiny: Path, tmp_path: Path, settings: Settings
) -> None:
    path = tmp_path / "schedule.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ScheduleError, match=says):
        read_schedule(path, settings)


Made = Callable[..., Job]


def scheduler(
    entries: list[Entry], folder: Path, runs: Runs, settings: Settings, at: datetime
) -> tuple[Scheduler, Simulated, list[Run]]:
    clock, said = Simulated(at), []
    return (
        Scheduler(Schedule(entries, folder / "schedule.yaml", settings), runs, settings, clock=clock, say=said.append),
        clock,
        said,
    )


def test_what_was_missed_is_caught_up_once(tiny: Path, tmp_path: Path, runs: Runs, settings: Settings) -> None:
    hourly = entry("0 * * * *", "UTC")
    begin = datetime(2026, 11, 2, 0, 30, tzinfo=UTC)
    first, _, said = scheduler([hourly], tmp_path, runs, settings, begin)
    first.run_forever(until=begin + timedelta(hours=1, minutes=10))
    assert [run.record.due_at for run in said] == ["2026-11-02T01:00:00+00:00"]
    later, _, said = scheduler([hourly], tmp_path, runs, settings, begin + timedelta(hours=10, minutes=10))
    later.run_forever(until=begin + timedelta(hours=11))
    assert [run.record.due_at[11:16] for run in said] == ["10:00", "11:00"]


def test_two_schedulers_share_a_schedule_and_nothing_runs_twice(
    tiny: Path, tmp_path: Path, runs: Runs, settings: Settings
) -> None:
    begin = datetime(2026, 11, 2, 0, 30, tzinfo=UTC)
    one, clock, _ = scheduler([entry("0 * * * *", "UTC")], tmp_path, runs, settings, begin)
    other, beside, _ = scheduler(
        [entry("0 * * * *", "UTC")], tmp_path, jobs.runs_in(tmp_path / "runs", settings), settings, begin
    )
    one.run_forever(until=begin + timedelta(minutes=40))
    beside.at = clock.at
    assert other.run_due() == []
    lease = runs.leases.take("one")
    assert lease is not None
    clock.at += timedelta(hours=1)
    assert one.run_due() == [], "another has it"
    lease.release()
    assert len(one.run_due()) == 1


def test_it_is_tried_again_where_the_schedule_says_so(tmp_path: Path, runs: Runs, settings: Settings) -> None:
    flag = tmp_path / "flag"
    write_notebook(
        tmp_path / "tiny.ipynb",
        f"import pathlib\nflag = pathlib.Path({str(flag)!r})\nwas = flag.exists()\nflag.touch()\nassert was, 'not yet'",
    )
    at = datetime(2026, 11, 2, 0, 30, tzinfo=UTC)
    clockwork, _, _ = scheduler([entry("0 * * * *", "UTC", retries=2)], tmp_path, runs, settings, at)
    (run,) = clockwork.run_due(also_new=True)
    assert (run.ok, run.record.attempt) == (True, 2)
    assert sorted((line.attempt, line.status) for line in runs.index()) == [(1, "failed"), (2, "ok")]
    assert clockwork.run_due(also_new=True) == []


def test_a_notebook_that_is_gone_is_a_failed_run_and_the_others_go_on(
    tiny: Path, tmp_path: Path, runs: Runs, settings: Settings
) -> None:
    entries = [entry("0 * * * *", name="gone").model_copy(update={"notebook": "deleted"}), entry("0 * * * *")]
    clockwork, _, _ = scheduler(entries, tmp_path, runs, settings, datetime(2026, 11, 2, tzinfo=UTC))
    gone, well = clockwork.run_due(also_new=True)
    assert "deleted.ipynb: there is no such notebook" in str(gone.record.error)
    assert well.ok


def test_a_place_that_takes_nothing_is_told_once_and_the_scheduler_goes_on(
    tiny: Path, tmp_path: Path, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a_file").write_text("not a folder")
    clockwork, _, said = scheduler(
        [entry("0 * * * *", "UTC")],
        tmp_path,
        jobs.runs_in(tmp_path / "a_file", settings),
        settings,
        datetime(2026, 11, 2, tzinfo=UTC),
    )
    assert clockwork.run_due(also_new=True) == []
    assert clockwork.failed_to_start == {"one"}
    assert "one could not start" in caplog.text
    assert said == []


CRASHING = """
import sys
from datetime import datetime
from pathlib import Path
from mangalib.jobs import execute as jobs
from mangalib.jobs.schedule import read_schedule
from mangalib.jobs.scheduler import Scheduler
from mangalib.settings import load_settings
from tests.integration.jobs.conftest import Simulated
folder, at, until = Path(sys.argv[1]), *map(datetime.fromisoformat, sys.argv[2:])
settings = load_settings()
clock = Simulated(at)
def say(run): print(clock.now().isoformat(), run.record.due_at, flush=True)
schedule = read_schedule(folder / "schedule.yaml", settings)
Scheduler(schedule, jobs.runs_in(folder / "runs", settings), settings, clock=clock, say=say).run_forever(until)
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
    # In the middle of the next run.
    deadline_s = time.monotonic() + 60
    while not [line for line in runs.index() if line.status == RUNNING]:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    process.kill()
    process.communicate()
    (cut_off,) = [line for line in runs.index() if line.status == RUNNING]

    restart = datetime.fromisoformat(cut_off.due_at) + timedelta(minutes=1)
    again = simulating(tmp_path, restart, end)
    said, _ = again.communicate(timeout=400)
    assert again.returncode == 0
    assert said.splitlines()[0].split()[1] == cut_off.due_at, "the next start says so"

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
    ended_well = Counter((line.job, line.due_at) for line in lines if line.status == "ok")
    assert max(ended_well.values()) == 1, "nothing ran twice"
    (killed,) = [line for line in lines if line.status == "failed"]
    assert (killed.name, killed.error) == (cut_off.name, KILLED)
    # The nightly job may be tried again; of the others the run that was killed was the run.
    assert set(ended_well) == expected - (set() if killed.job == "nightly" else {(killed.job, killed.due_at)})
    assert not (tmp_path / "runs" / "runs.json").read_text().count(RUNNING)
    assert json.loads((tmp_path / "runs" / "runs.json").read_text()).keys() == {line.name for line in lines}


def test_a_turn_survives_what_writes_it(runs: Runs) -> None:
    lease = runs.leases.take("job")
    assert lease is not None
    lease.write(ScheduleCursor("2026-11-01T00:00:00+00:00", 1))
    assert runs.leases.cursor("job").attempts == 1
    lease.release()
