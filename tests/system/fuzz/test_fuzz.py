"""Ten thousand inputs per target are read or refused; and the bugs that longer runs found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mangalib.errors import DataError
from mangalib.precompute.prediction.session_log import SessionLog
from tests.system.fuzz.__main__ import read_all
from tests.system.fuzz.targets import TARGETS, temporary_folder

INPUTS = 10_000


@pytest.fixture(autouse=True)
def _folder() -> Iterator[None]:
    with temporary_folder():
        yield


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_crashes_hangs_or_exhausts_memory(name: str) -> None:
    figures = read_all(TARGETS[name], INPUTS, seed=2)
    assert figures["inputs"] == INPUTS
    assert figures["grown_mb"] < 100


# Bugs found by longer runs


@pytest.mark.parametrize("moment", ["infinity", "-infinity"])
def test_an_infinite_time_in_a_session_log_is_reported(tmp_path: Path, moment: str) -> None:
    path = tmp_path / "log.csv"
    path.write_text(f"session_id,at,intent\na,2024-01-01T00:00:00Z,faq\na,{moment},faq\n")
    with pytest.raises(DataError, match=f"at='{moment}' in 1 of 2 rows"):
        SessionLog(path, session_events_max=10).read_all()
