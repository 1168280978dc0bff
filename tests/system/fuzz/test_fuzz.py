"""Ten thousand inputs a target: read, or refused in words; and what longer runs have found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mangalib.errors import DataError
from mangalib.precompute.prediction.session_log import SessionLog
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


@pytest.mark.parametrize("moment", ["infinity", "-infinity"])
def test_a_time_in_a_log_that_never_comes_is_named(tmp_path: Path, moment: str) -> None:
    path = tmp_path / "log.csv"
    path.write_text(f"session_id,at,intent\na,2024-01-01T00:00:00Z,faq\na,{moment},faq\n")
    with pytest.raises(DataError, match=f"at='{moment}' in 1 of 2 rows"):
        SessionLog(path, session_events_max=10).read_all()
