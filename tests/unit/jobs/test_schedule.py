"""The schedule's file, and the due times of its jobs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise, takewhile
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from mangalib.errors import ScheduleError
from mangalib.jobs.schedule import Entry, read_schedule
from mangalib.settings import Settings

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
    assert crons["05_regression_report"][0] == "*/15 * * * *"
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
