"""A tiny notebook, a folder for runs, and jobs that run it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster

from mangalib.cluster import ON_LOOPBACK
from mangalib.jobs.parameters import Job, job_of
from mangalib.jobs.runs import Runs, open_runs
from mangalib.settings import Settings, load_settings
from tests.small_notebooks import RECORD, write_notebook


class SimulatedClock:
    """A clock that jumps to the next due time instead of waiting."""

    def __init__(self, at: datetime) -> None:
        self.at = at

    def now(self) -> datetime:
        return self.at

    def sleep_until(self, moment: datetime) -> None:
        self.at = max(self.at + timedelta(seconds=1), moment)


@pytest.fixture
def settings() -> Settings:
    return load_settings()


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_notebook(tmp_path / "tiny.ipynb", RECORD)


@pytest.fixture
def runs(tmp_path: Path, settings: Settings) -> Runs:
    return open_runs(tmp_path / "runs", settings)


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Job]:
    def make(*cells: str, timeout_s: float = 60, parameters: str = "number = 1", **values: Any) -> Job:
        source = write_notebook(tmp_path / f"job{abs(hash(cells)) % 10_000}.ipynb", *cells, parameters=parameters)
        return job_of(source, values, timeout_s=timeout_s)

    return make


@pytest.fixture
def two_workers() -> Iterator[Client]:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=ON_LOOPBACK) as cluster,
        Client(cluster) as client,
    ):
        yield client
