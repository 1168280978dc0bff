"""A small notebook, and a folder of runs with records written for the test."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from mangalib.jobs.leases import FileLeases
from mangalib.jobs.records import FAILED, OK, RUNNING, RunRecord
from mangalib.jobs.runs import Runs
from mangalib.settings import Settings, load_settings
from tests.small_notebooks import RECORD, write_notebook

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
AddRun = Callable[..., str]


@pytest.fixture
def settings() -> Settings:
    return load_settings()


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_notebook(tmp_path / "tiny.ipynb", RECORD)


@pytest.fixture
def runs(tmp_path: Path, settings: Settings) -> Runs:
    return Runs(tmp_path / "runs", FileLeases(tmp_path / "runs" / ".leases"), settings)


@pytest.fixture
def add_run(runs: Runs) -> AddRun:
    """Writes the files of a run that started so many days before ``NOW``; returns its name."""

    def add(*, days_ago: float, notebook: str = "04_benchmark_run", status: str = OK) -> str:
        started = NOW - timedelta(days=days_ago)
        record = RunRecord(
            notebook=notebook,
            parameters={},
            started_at=started.isoformat(),
            finished_at=None if status == RUNNING else (started + timedelta(seconds=42)).isoformat(),
            status=status,
            error="cell 3: boom <b>" if status == FAILED else None,
            results={"headline": "all <i>OK</i>"},
            job=notebook,
        )
        name = f"{notebook}/{started:%Y-%m-%d}/{started:%H%M%S}-abcdef"
        runs.storage.create_folder(name.rsplit("/", 1)[0])
        runs.storage.write(f"{name}.json", msgspec.json.encode(record).decode())
        for suffix in (".ipynb", ".html"):
            runs.storage.write(name + suffix, "{}")
        return name

    return add
