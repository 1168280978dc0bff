"""The verdict on a run, and the error when there can be none."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mangalib.benchmark.experiments import synthetic_history
from mangalib.benchmark.experiments.synthetic_history import Change, SyntheticHistory
from mangalib.benchmark.verdict import FAILING, SLOWER, TARGET, judge_samples
from mangalib.errors import DataError
from mangalib.settings import load_settings

SETTINGS = load_settings()
FEW = {"faq": (290.0, 900.0), "greeting": (285.0, 600.0)}
# Requests with little variation, so that no p95 is over its budget.
CALM = SyntheticHistory(days=7.1, sigma=0.1, levels_ms=FEW, samples=20)
SMALL = SyntheticHistory(days=0.3, sigma=0.1, levels_ms=FEW, samples=20)


def samples_of(history: SyntheticHistory, *changes: Change, seed: int = 1) -> pd.DataFrame:
    return synthetic_history.samples(history, list(changes), np.random.default_rng(seed), SETTINGS)


def verdict_on(samples: pd.DataFrame) -> Any:
    newest = str(samples["run_id"].iloc[-1])
    return judge_samples(samples, SETTINGS, run_id=newest, notes=[])


def test_a_healthy_run_is_reported_as_all_right() -> None:
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


def test_the_daily_cycle_is_no_shift() -> None:
    history = replace(
        CALM, daily=0.3, end=datetime(2026, 11, 2, 12, tzinfo=UTC), levels_ms={"comparison": (700.0, 1500.0)}
    )
    verdict = verdict_on(samples_of(history))
    assert verdict.severity == 0
    assert abs(verdict.comparison["p50_shift"]).max() < 0.1


def test_failures_are_told_apart_from_slowness() -> None:
    verdict = verdict_on(samples_of(CALM, Change((7 * 96) + 8, error_rate=1.0, intents=("faq",))))
    assert [finding.kind for finding in verdict.findings if finding.intent == "faq"] == [FAILING]
    assert verdict.severity == 3
    assert "faq: every request failed, so there are no latencies" in verdict.notes


def test_over_target_compares_with_the_budget_and_not_the_baseline() -> None:
    slow = replace(CALM, levels_ms={"faq": (600.0, 900.0), "comparison": (600.0, 900.0)})
    verdict = verdict_on(samples_of(slow))
    assert [(finding.kind, finding.intent) for finding in verdict.findings] == [(TARGET, "faq")]
    assert "over its budget of 400 ms" in verdict.sentence
    # Slower than it was says more than that it is over its budget too.
    changed = verdict_on(samples_of(slow, Change((7 * 96) + 6, factor=1.6, intents=("faq",))))
    assert {finding.kind for finding in changed.findings} == {SLOWER}


def test_a_young_baseline_and_intents_that_come_and_go_are_noted() -> None:
    samples = samples_of(replace(SMALL, levels_ms={**FEW, "other": (280.0, 700.0)}))
    last = samples["run_id"] == samples["run_id"].iloc[-1]
    keep = ~(last & (samples["intent"] == "faq")) & ~(~last & (samples["intent"] == "other"))
    verdict = verdict_on(samples[keep])
    notes = "\n".join(verdict.notes)
    assert "the baseline is young: 0.3 of 7 days" in notes
    assert "faq was asked before, and not in this run" in notes
    assert "other is new: nothing to compare it with" in notes


def test_earlier_runs_with_invalid_values_are_left_out_and_named() -> None:
    samples = samples_of(SMALL).reset_index(drop=True)
    samples.loc[5, "total_ms"] = -1.0
    verdict = verdict_on(samples)
    assert verdict.notes[0] == "run past-000000 was left out: total_ms is -1 for faq; expected more than 0"
    samples.loc[len(samples) - 1, "total_ms"] = np.nan
    with pytest.raises(DataError, match="no verdict on run past-000028: total_ms is nan"):
        verdict_on(samples)
