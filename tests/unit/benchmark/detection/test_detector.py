"""The detector: how it reports a change, and what it does with incomplete or invalid data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mangalib.benchmark.detection import detector
from mangalib.benchmark.detection.series import METRICS
from mangalib.benchmark.detection.verdict_frame import ERROR_RATE
from mangalib.benchmark.experiments import synthetic_history
from mangalib.benchmark.experiments.synthetic_history import Change, SyntheticHistory
from mangalib.errors import DataError
from mangalib.settings import load_settings

SETTINGS = load_settings()
SHORT = SyntheticHistory(days=7.2)
FIRST = 672
# Two intents are enough for these tests, and faster than eight.
FEW = {"faq": (290.0, 900.0), "greeting": (285.0, 600.0)}


def samples_of(history: SyntheticHistory, *changes: Change, seed: int = 1) -> pd.DataFrame:
    return synthetic_history.samples(history, list(changes), np.random.default_rng(seed), SETTINGS)


def rows_after(verdict_frame: pd.DataFrame, run: int, **where: Any) -> pd.DataFrame:
    chosen = verdict_frame[verdict_frame["run_id"] >= f"past-{run:06d}"]
    for name, value in where.items():
        chosen = chosen[chosen[name] == value]
    return chosen


def test_one_row_per_run_intent_and_metric_whatever_the_order_of_the_samples() -> None:
    history = SyntheticHistory(days=0.3, levels_ms=FEW, samples=12)
    samples = samples_of(history)
    verdict_frame = detector.replay(samples)
    assert list(verdict_frame.columns[:10]) == [
        *("run_id", "started_at", "intent", "metric", "severity", "since"),
        *("shift", "shift_low", "shift_high", "reason"),
    ]
    expected = {(i, m) for i in (*FEW, "*") for m in (*METRICS, ERROR_RATE)}
    assert set(zip(verdict_frame["intent"], verdict_frame["metric"], strict=True)) == expected
    assert len(verdict_frame) == history.runs * len(expected)
    assert not verdict_frame.duplicated(["run_id", "intent", "metric"]).any()
    shuffled = detector.replay(samples.sample(frac=1, random_state=1))
    pd.testing.assert_frame_equal(verdict_frame, shuffled)
    textbook = detector.replay(samples, rule="textbook")
    assert len(textbook) == history.runs * len(FEW) * 3
    assert "*" not in set(textbook["intent"])


def test_later_runs_do_not_change_earlier_verdicts() -> None:
    samples = samples_of(SyntheticHistory(days=1.5, levels_ms=FEW, samples=12), Change(100, factor=1.5))
    complete = detector.replay(samples)
    cut = samples[samples["run_id"].astype(str) < "past-000120"]
    pd.testing.assert_frame_equal(
        detector.replay(cut), complete[complete["run_id"] < "past-000120"].reset_index(drop=True)
    )


def test_a_change_has_a_beginning_a_size_and_an_end() -> None:
    samples = samples_of(replace(SHORT, levels_ms=FEW), Change(FIRST, FIRST + 8, factor=1.5, intents=("faq",)))
    verdict_frame = detector.replay(samples)
    during = rows_after(verdict_frame, FIRST + 4, intent="faq", metric="first_token_ms").head(4)
    begins = samples.loc[samples["run_id"] == f"past-{FIRST:06d}", "started_at"].iloc[0]
    assert (during["severity"] >= 2).all()
    assert (abs(during["since"] - begins) <= pd.Timedelta(minutes=30)).all()
    assert ((during["shift_low"] <= 0.5) & (during["shift_high"] >= 0.5)).mean() >= 0.75
    assert "slower: p95 +" in during["reason"].iloc[-1]
    after = rows_after(verdict_frame, FIRST + 11, intent="faq", metric="first_token_ms")
    assert (after["severity"] == 0).all()
    others = rows_after(verdict_frame, FIRST, intent="greeting")
    assert (others["severity"] < 2).all()


def test_a_regression_never_becomes_the_new_baseline() -> None:
    history = SyntheticHistory(days=24, runs_per_day=24, levels_ms={"faq": (290.0, 900.0)})
    verdict_frame = detector.replay(samples_of(history, Change(7 * 24, factor=1.5)))
    late = rows_after(verdict_frame, 22 * 24, intent="faq", metric="first_token_ms")
    assert (late["severity"] >= 2).all()


def test_an_improvement_is_reported_and_moves_the_baseline_when_it_lasts() -> None:
    history = SyntheticHistory(days=10, levels_ms=FEW)
    better = 8 * 96
    verdict_frame = detector.replay(samples_of(history, Change(better, factor=0.7), Change(better + 120, factor=1.45)))
    soon = rows_after(verdict_frame, better + 6, intent="faq", metric="total_ms").head(60)
    assert (soon["severity"] == 0).all()
    assert (soon["direction"] == -1).all()
    assert soon["reason"].str.startswith("improved").all()
    accepted = rows_after(verdict_frame, better + 100)
    accepted = accepted[accepted["run_id"] < f"past-{better + 120:06d}"]
    assert (accepted["severity"] == 0).all(), "nor for all intents together"
    assert (accepted["direction"] == 0).mean() > 0.8
    # What was normal before the improvement is a regression after it.
    worse = rows_after(verdict_frame, better + 124, intent="faq", metric="total_ms").head(20)
    assert (worse["severity"] >= 2).all()


def test_a_short_improvement_does_not_move_the_baseline() -> None:
    history = SyntheticHistory(days=9, levels_ms=FEW)
    dip = 8 * 96
    verdict_frame = detector.replay(samples_of(history, Change(dip, dip + 10, factor=0.7)))
    after = rows_after(verdict_frame, dip + 14)
    assert (after["severity"] < 2).all()
    assert (after["severity"] > 0).mean() < 0.01
    assert (after["direction"] == 0).mean() > 0.9


def test_short_runs_gaps_and_ties_are_handled() -> None:
    history = SyntheticHistory(days=8, levels_ms=FEW)
    samples = samples_of(history)
    rng = np.random.default_rng(1)
    runs = samples["run_id"].cat.codes.to_numpy()
    short = np.isin(runs, rng.choice(history.runs, 80, replace=False)) & (samples["sequence"] >= 8)
    gap = (runs > 300) & (runs < 380)
    samples = samples[~short.to_numpy() & ~gap]
    samples = samples.assign(first_token_ms=samples["first_token_ms"].round(-1), total_ms=samples["total_ms"].round(-1))
    verdict_frame = detector.replay(samples)
    assert (verdict_frame["severity"] >= 2).sum() == 0
    assert (verdict_frame["severity"] > 0).sum() <= 12


def test_a_run_with_too_few_answers_is_not_judged_and_says_so() -> None:
    samples = samples_of(SyntheticHistory(days=1, levels_ms=FEW))
    last = samples["run_id"] == "past-000095"
    verdict_frame = detector.replay(samples[~last | (samples["sequence"] < 3)])
    newest = rows_after(verdict_frame, 95, intent="faq", metric="total_ms").iloc[0]
    assert newest["severity"] == 0
    assert newest["reason"] == "not judged: too few answers in this run"


def test_a_young_baseline_says_so_and_then_works() -> None:
    verdict_frame = detector.replay(samples_of(SyntheticHistory(days=0.5, levels_ms=FEW), Change(40, factor=1.8)))
    first = verdict_frame[verdict_frame["run_id"] == "past-000002"]
    assert first["reason"].str.startswith("not judged").all()
    assert (rows_after(verdict_frame, 44, intent="faq", metric="total_ms")["severity"] >= 2).all()


def test_an_intent_that_appears_or_vanishes_disturbs_no_other() -> None:
    samples = samples_of(SyntheticHistory(days=8, levels_ms={**FEW, "other": (290.0, 800.0)}))
    run = samples["run_id"].cat.codes
    samples = samples[
        ~((samples["intent"] == "greeting") & (run >= 740)) & ~((samples["intent"] == "other") & (run < 760))
    ]
    verdict_frame = detector.replay(samples)
    assert (verdict_frame["severity"] >= 2).sum() == 0
    vanished = rows_after(verdict_frame, 767, intent="greeting", metric="total_ms").iloc[0]
    appeared = rows_after(verdict_frame, 762, intent="other", metric="total_ms").iloc[0]
    assert vanished["reason"].startswith("not judged")
    assert appeared["reason"].startswith("not judged: its baseline has")


def test_failed_requests_are_not_counted_as_fast() -> None:
    verdict_frame = detector.replay(
        samples_of(replace(SHORT, levels_ms=FEW), Change(FIRST, error_rate=1.0, intents=("faq",)))
    )
    newest = rows_after(verdict_frame, FIRST + 2, intent="faq").head(3).set_index("metric")
    assert newest.loc["error_rate", "severity"] == 3
    assert "failing: 100.0 % of requests" in newest.loc["error_rate", "reason"]
    assert newest.loc["first_token_ms", "severity"] == 0
    assert newest.loc["first_token_ms", "reason"].startswith("not judged")


def test_a_constant_error_rate_raises_no_alarm() -> None:
    verdict_frame = detector.replay(samples_of(replace(SyntheticHistory(days=9), error_rate=0.002, levels_ms=FEW)))
    errors = rows_after(verdict_frame, FIRST, metric="error_rate")
    assert (errors["severity"] >= 2).sum() == 0
    assert (errors["severity"] > 0).mean() < 0.03


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"first_token_ms": np.nan}, "first_token_ms is nan for faq; expected more than 0"),
        ({"total_ms": -3.0}, "total_ms is -3 for faq; expected more than 0"),
        ({"first_token_ms": 0.0}, "first_token_ms is 0 for faq"),
        ({"first_token_ms": np.inf}, "first_token_ms is inf"),
        ({"started_at": pd.Timestamp("2026-01-01", tz="UTC")}, "expected one moment a run"),
        ({"at": pd.Timestamp("2026-01-01", tz="UTC")}, "the clock went backwards"),
    ],
)
def test_an_invalid_value_is_reported_with_run_and_field(change: dict[str, Any], says: str) -> None:
    samples = samples_of(SyntheticHistory(days=0.2, levels_ms=FEW, samples=6)).reset_index(drop=True)
    at = samples.index[samples["intent"] == "faq"][50]
    for name, value in change.items():
        samples.loc[at, name] = value
    for rule in ("sequential", "textbook"):
        with pytest.raises(DataError, match=f"run {samples.loc[at, 'run_id']}: .*{says}"):
            detector.replay(samples, rule=rule)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda s: s.drop(columns="intent"), "column intent: missing"),
        (lambda s: s.assign(total_ms="fast"), "column total_ms: .*expected numbers"),
        (lambda s: s.assign(ok=1), "column ok: int64; expected booleans"),
        (lambda s: s.assign(started_at=s["started_at"].dt.tz_localize(None)), "column started_at: .*UTC timestamps"),
    ],
)
def test_missing_or_mistyped_columns_are_named(spoil: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        detector.replay(spoil(samples_of(SyntheticHistory(days=0.1, levels_ms=FEW, samples=5))))


def test_no_samples_give_no_rows() -> None:
    samples = samples_of(SyntheticHistory(days=0.1, levels_ms=FEW, samples=5))
    assert len(detector.replay(samples.iloc[:0])) == 0
