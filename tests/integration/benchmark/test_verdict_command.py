"""``mangalib verdict``: what it prints, its exit codes, and what it says of a store that is not as it should be."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mangalib.benchmark.experiments.synthetic_history import Change
from mangalib.benchmark.store import Store, iter_runs
from mangalib.benchmark.verdict import judge_run
from mangalib.settings import environment
from tests.unit.benchmark.test_verdict import CALM, SETTINGS, SMALL, samples_of


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = Store(str(tmp_path_factory.mktemp("store")), SETTINGS)
    for run in iter_runs(samples_of(SMALL)):
        store.append(run)
    return Path(store.url)


def mangalib(*arguments: str, store: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mangalib.cli", *arguments]
    env = environment({"store": str(store)})
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env, check=False)
    assert "Traceback" not in done.stderr
    return done


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_verdict_is_printed_as_text_and_as_json(healthy: Path) -> None:
    read = mangalib("verdict", store=healthy)
    assert read.returncode == 0
    assert read.stdout.startswith("All right: nothing is worse than in the 28 runs")
    assert "slower with" in read.stdout
    parsed = json.loads(mangalib("verdict", "--json", "--run", "past-000020", store=healthy).stdout)
    assert parsed["run_id"] == "past-000020"
    assert parsed["baseline_runs"] == 20


def test_a_severity_can_set_the_exit_code(tmp_path: Path) -> None:
    store = Store(str(tmp_path), SETTINGS)
    for run in iter_runs(samples_of(CALM, Change((7 * 96) + 3, factor=1.33))):
        store.append(run)
    codes = {level: mangalib("verdict", "--fail-on", level, store=tmp_path) for level in ("sev1", "sev2", "sev3")}
    assert [done.returncode for done in codes.values()] == [0, 1, 1], codes["sev1"].stdout
    assert "SEV-2 is as bad as sev2" in codes["sev2"].stderr


@pytest.mark.parametrize(
    ("spoil", "arguments", "says"),
    [
        (lambda s: s.iloc[:0], (), "is empty; `mangalib benchmark` adds a run"),
        (lambda s: s[s["run_id"] == "past-000000"], (), "it is the only run, and 11 are needed"),
        (lambda s: s[s["run_id"] <= "past-000004"], (), "4 runs came before it, and 11 are needed"),
        (lambda s: s, ("--run", "nonsense"), "no run 'nonsense'"),
        (lambda s: s, ("--run", "past-000020", "--act"), "--act goes with the newest run only"),
        (lambda s: s.assign(total_ms=-5.0), (), "no verdict on run past-000028: total_ms is -5"),
        (lambda s: s.assign(first_token_ms=np.nan), (), "first_token_ms is nan"),
        (lambda s: s.assign(at=s["started_at"] - pd.Timedelta(hours=1)), (), "the clock went backwards"),
    ],
)
def test_a_run_without_a_verdict_is_one_error_line_and_nothing_is_written(
    tmp_path: Path, spoil: Any, arguments: tuple[str, ...], says: str
) -> None:
    store = Store(str(tmp_path), SETTINGS)
    samples = samples_of(SMALL)
    samples = samples.assign(run_id=samples["run_id"].astype(str))
    for run in iter_runs(spoil(samples)):
        store.append(run)
    before = contents(tmp_path)
    done = mangalib("verdict", *arguments, store=tmp_path)
    assert done.returncode == 1
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert contents(tmp_path) == before


def test_a_run_whose_every_request_failed_gets_a_verdict(tmp_path: Path) -> None:
    store = Store(str(tmp_path), SETTINGS)
    for run in iter_runs(samples_of(SMALL, Change(28, error_rate=1.0))):
        store.append(run)
    done = mangalib("verdict", "--fail-on", "sev1", store=tmp_path)
    assert done.returncode == 1
    assert done.stdout.startswith("SEV-1: faq (also greeting): failing: 100.0 % of requests")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: f.drop(columns="ok"), "column ok is missing"),
        (lambda f: f.assign(total_ms="fast"), "column total_ms is"),
    ],
)
def test_a_store_with_other_columns_is_named_with_file_and_column(tmp_path: Path, spoil: Any, says: str) -> None:
    store = Store(str(tmp_path), SETTINGS)
    for run in iter_runs(samples_of(SMALL)):
        store.append(run)
    path = sorted(tmp_path.rglob("*.parquet"))[3]
    spoil(pd.read_parquet(path, partitioning=None)).to_parquet(path, index=False)
    done = mangalib("verdict", store=tmp_path)
    assert done.returncode == 1
    assert path.name in done.stderr
    assert says in done.stderr


def test_a_clock_that_went_backwards_stops_a_run_before_it_starts(tmp_path: Path) -> None:
    store = Store(str(tmp_path), SETTINGS)
    (future,) = iter_runs(samples_of(replace(SMALL, days=1 / 96, end=datetime(2126, 1, 1, tzinfo=UTC))))
    store.append(future)
    before = contents(tmp_path)
    done = mangalib("benchmark", "--per-intent", "1", store=tmp_path)
    assert done.returncode == 1
    assert "correct the clock" in done.stderr
    assert contents(tmp_path) == before


def test_judging_two_stores_of_the_same_runs_gives_the_same_verdict(tmp_path: Path, healthy: Path) -> None:
    other = Store(str(tmp_path), SETTINGS)
    for run in reversed(list(iter_runs(samples_of(SMALL)))):
        other.append(run)
    other.compact(datetime(2026, 11, 10, tzinfo=UTC).date())
    one, two = (judge_run(Store(str(folder), SETTINGS), SETTINGS).as_json() for folder in (healthy, tmp_path))
    assert one == two
