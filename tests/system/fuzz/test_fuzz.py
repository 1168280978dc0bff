"""Ten thousand inputs a target: read, or refused in words; and what longer runs have found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mangalib.errors import DataError, ScheduleError
from mangalib.jobs.schedule import read_schedule
from mangalib.precompute.prediction.session_log import SessionLog
from mangalib.settings import load_settings
from tests.system.fuzz.__main__ import read_all
from tests.system.fuzz.targets import TARGETS, a_folder

INPUTS = 10_000


@pytest.fixture(autouse=True)
def _folder() -> Iterator[None]:
    with a_folder():
        yield


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_is_a_crash_a_hang_or_a_flood(name: str) -> None:
    figures = read_all(TARGETS[name], INPUTS, seed=2)
    assert figures["inputs"] == INPUTS
    assert figures["grown_mb"] < 100


# Found by longer runs


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("!!int rs: 1", "invalid literal"),
        ("timeout_s: !!int rs", "invalid literal"),
        ("name: [{a: b}]", "name"),
        ("time_zone: Asia", "expected a name as in Asia/Tokyo"),
        ("parameters: {when: 2024-13-45}", "month must be in"),
    ],
)
def test_a_wrong_value_in_a_schedule_is_named_with_its_line(tmp_path: Path, field: str, said: str) -> None:
    path = tmp_path / "schedule.yaml"
    path.write_text(f"jobs:\n  - cron: 0 0 * * *\n    notebook: n\n    {field}\n")
    with pytest.raises(ScheduleError, match=said) as refused:
        read_schedule(path, load_settings())
    assert f"{path} line " in str(refused.value)


@pytest.mark.parametrize("moment", ["infinity", "-infinity"])
def test_a_time_in_a_log_that_never_comes_is_named(tmp_path: Path, moment: str) -> None:
    path = tmp_path / "log.csv"
    path.write_text(f"session_id,at,intent\na,2024-01-01T00:00:00Z,faq\na,{moment},faq\n")
    with pytest.raises(DataError, match=f"at='{moment}' in 1 of 2 rows"):
        SessionLog(path, session_events_max=10).whole()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 5000, "nested too deeply"),
        ("jobs: &a [*a]", "anchors"),
        (
            "\n".join(["a: &l0 [x, x]", *(f"b{n}: &l{n} [*l{n - 1}, *l{n - 1}]" for n in range(1, 60))]),
            "anchors that make more than",
        ),
    ],
)
def test_a_small_schedule_that_would_grow_without_end_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "schedule.yaml"
    path.write_text(text)
    with pytest.raises(ScheduleError, match=said) as refused:
        read_schedule(path, load_settings())
    assert len(str(refused.value)) < 500
