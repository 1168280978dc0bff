"""The verdict on a run, and the errors when there can be none."""

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

from mangalib.benchmark.experiments import synthetic_history
from mangalib.benchmark.experiments.synthetic_history import Change, SyntheticHistory
from mangalib.benchmark.store import Store, iter_runs
from mangalib.benchmark.verdict import FAILING, SLOWER, TARGET, judge_run, judge_samples
from mangalib.errors import DataError
from mangalib.settings import environment, load_settings

SETTINGS = load_settings()
FEW = {"faq": (290.0, 900.0), "greeting": (285.0, 600.0)}
# Requests of little spread, so that no p95 is over its budget.
CALM = SyntheticHistory(days=7.1, sigma=0.1, levels_ms=FEW, samples=20)
SMALL = SyntheticHistory(days=0.3, sigma=0.1, levels_ms=FEW, samples=20)


def samples_of(history: SyntheticHistory, *changes: Change, seed: int = 1) -> pd.DataFrame:
    return synthetic_history.samples(history, list(changes), np.random.default_rng(seed), SETTINGS)


def verdict_on(samples: pd.DataFrame) -> Any:
    newest = str(samples["run_id"].iloc[-1])
    return judge_samples(samples, SETTINGS, run_id=newest, notes=[])


def test_where_nothing_is_wrong_it_says_so() -> None:
    verdict = verdict_on(samples_of(CALM))
    assert verdict.severity == 0
    assert verdict.sentence.startswith("All right: nothing is worse than in the 672 runs of the last 7.0 days")
    assert verdict.findings == []
    assert verdict.notes == []
    plain = json.loads(json.dumps(verdict.as_json(), allow_nan=False))
    assert plain["severity"] == "none"
    assert len(plain["comparison"]) == 4


def test_a_regression_is_one_sentence_with_where_how_much_and_since_when() -> None:
    changed = (7 * 96) + 6
    verdict = verdict_on(samples_of(CALM, Change(changed, factor=1.6, intents=("faq",))))
    assert verdict.severity == 3
    worst = verdict.findings[0]
    assert (worst.kind, worst.intent) == (SLOWER, "faq")
    assert worst.shift_low < 0.6 < worst.shift_high
    assert verdict.sentence.startswith("SEV-1: faq: ")
    assert "slower: p95 +" in verdict.sentence
    assert f"since {worst.since:%d %b %H:%M} UTC" in verdict.sentence
    row = verdict.comparison.set_index(["intent", "metric"]).loc[("faq", "total_ms")]
    assert 0.3 < row["p50_shift_low"] < row["p50_shift"] < row["p50_shift_high"] < 0.9
    assert row["p50_shift_ms"] == pytest.approx(row["p50_shift"] * row["p50_baseline"])
    assert row["probability_slower"] > 0.95
    assert 0.4 < row["visible_d"] < 0.8


def test_what_each_evening_brings_is_no_shift() -> None:
    history = replace(
        CALM, daily=0.3, end=datetime(2026, 11, 2, 12, tzinfo=UTC), levels_ms={"comparison": (700.0, 1500.0)}
    )
    verdict = verdict_on(samples_of(history))
    assert verdict.severity == 0
    assert abs(verdict.comparison["p50_shift"]).max() < 0.1


def test_failures_are_distinguished_from_slowness() -> None:
    verdict = verdict_on(samples_of(CALM, Change((7 * 96) + 8, error_rate=1.0, intents=("faq",))))
    assert [finding.kind for finding in verdict.findings if finding.intent == "faq"] == [FAILING]
    assert verdict.severity == 3
    assert "faq: every request failed, so there are no latencies" in verdict.notes


def test_over_target_is_against_the_budget_and_not_the_baseline() -> None:
    slow = replace(CALM, levels_ms={"faq": (600.0, 900.0), "comparison": (600.0, 900.0)})
    verdict = verdict_on(samples_of(slow))
    assert [(finding.kind, finding.intent) for finding in verdict.findings] == [(TARGET, "faq")]
    assert "over its budget of 400 ms" in verdict.sentence
    # Slower than it was says more than that it is over its budget too.
    changed = verdict_on(samples_of(slow, Change((7 * 96) + 6, factor=1.6, intents=("faq",))))
    assert {finding.kind for finding in changed.findings} == {SLOWER}


def test_a_young_baseline_and_intents_that_appear_or_vanish_are_noted() -> None:
    samples = samples_of(replace(SMALL, levels_ms={**FEW, "other": (280.0, 700.0)}))
    last = samples["run_id"] == samples["run_id"].iloc[-1]
    keep = ~(last & (samples["intent"] == "faq")) & ~(~last & (samples["intent"] == "other"))
    verdict = verdict_on(samples[keep])
    notes = "\n".join(verdict.notes)
    assert "the baseline is young: 0.3 of 7 days" in notes
    assert "faq was asked before, and not in this run" in notes
    assert "other is new: nothing to compare it with" in notes


def test_earlier_runs_that_cannot_be_are_left_out_and_named() -> None:
    samples = samples_of(SMALL).reset_index(drop=True)
    samples.loc[5, "total_ms"] = -1.0
    verdict = verdict_on(samples)
    assert verdict.notes[0] == "run past-000000 was left out: total_ms is -1 for faq; expected more than 0"
    samples.loc[len(samples) - 1, "total_ms"] = np.nan
    with pytest.raises(DataError, match="run past-000028 cannot be judged: total_ms is nan"):
        verdict_on(samples)


# The command, and what it says of a store that is not as it should be


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


def test_a_person_reads_it_and_a_program_does(healthy: Path) -> None:
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
        (lambda s: s.iloc[:0], (), "is empty; `mangalib benchmark` makes a run"),
        (lambda s: s[s["run_id"] == "past-000000"], (), "it is the only run, and 11 are needed"),
        (lambda s: s[s["run_id"] <= "past-000004"], (), "4 runs came before it, and 11 are needed"),
        (lambda s: s, ("--run", "nonsense"), "no run 'nonsense'"),
        (lambda s: s, ("--run", "past-000020", "--act"), "--act goes with the newest run only"),
        (lambda s: s.assign(total_ms=-5.0), (), "run past-000028 cannot be judged: total_ms is -5"),
        (lambda s: s.assign(first_token_ms=np.nan), (), "first_token_ms is nan"),
        (lambda s: s.assign(at=s["started_at"] - pd.Timedelta(hours=1)), (), "the clock went backwards"),
    ],
)
def test_what_cannot_be_judged_is_one_line_an_exit_code_and_nothing_is_written(
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


def test_every_request_failed_is_a_verdict(tmp_path: Path) -> None:
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
    assert "set the clock right" in done.stderr
    assert contents(tmp_path) == before


def test_judging_two_stores_of_the_same_runs_gives_the_same_verdict(tmp_path: Path, healthy: Path) -> None:
    other = Store(str(tmp_path), SETTINGS)
    for run in reversed(list(iter_runs(samples_of(SMALL)))):
        other.append(run)
    other.compact(datetime(2026, 11, 10, tzinfo=UTC).date())
    one, two = (judge_run(Store(str(folder), SETTINGS), SETTINGS).as_json() for folder in (healthy, tmp_path))
    assert one == two
