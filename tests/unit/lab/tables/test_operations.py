"""The operator's figures, on made-up days in which it is known what is wrong."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from mangalib.benchmark.experiments import synthetic_history
from mangalib.benchmark.verdict import Verdict, judge_samples
from mangalib.incidents.incidents import Event, Incident
from mangalib.lab.plots import operations as opsplots
from mangalib.lab.tables import operations
from mangalib.lab.tables.benchmark import budgets_ms
from mangalib.settings import load_settings

SETTINGS = load_settings()
HISTORY = synthetic_history.SyntheticHistory(days=7, sigma=0.1, error_rate=0.002, daily=0.0)


def made(*changes: synthetic_history.Change) -> tuple[pd.DataFrame, Verdict]:
    samples = synthetic_history.samples(HISTORY, changes, np.random.default_rng(3), SETTINGS)
    return samples, judge_samples(samples, SETTINGS, run_id=str(samples["run_id"].iloc[-1]), notes=[])


@pytest.fixture(scope="module")
def well() -> tuple[pd.DataFrame, Verdict]:
    return made(synthetic_history.Change(0, factor=0.8))


@pytest.fixture(scope="module")
def slow() -> tuple[pd.DataFrame, Verdict]:
    return made(
        synthetic_history.Change(0, factor=0.8),
        synthetic_history.Change(HISTORY.runs - 12, factor=1.6, intents=("faq",)),
    )


def test_all_right_is_said_in_a_word(well: tuple[pd.DataFrame, Verdict]) -> None:
    table = operations.health(*well, [], SETTINGS)
    assert set(table["state"]) == {"✓ well"}
    assert operations.answer(table, well[1]).startswith("Yes.")


def test_what_is_wrong_is_said_with_where_and_since_when(slow: tuple[pd.DataFrame, Verdict]) -> None:
    table = operations.health(*slow, [], SETTINGS).set_index("intent")
    assert table.loc["faq", "state"].startswith("✗ SEV-")
    assert set(table.drop("faq")["state"]) == {"✓ well"}
    said = operations.answer(table.reset_index(), slow[1])
    assert said.startswith("No.")
    assert "Where: faq (SEV-" in said
    assert table.loc["faq", "since"] in said
    assert table.loc["faq", "since"]


def test_percentiles_over_time_are_those_of_the_samples(well: tuple[pd.DataFrame, Verdict]) -> None:
    samples, _ = well
    table = operations.over_time(samples, "total_ms", "1h")
    row = table.iloc[17]
    chosen = samples[(samples["intent"] == row["intent"]) & (samples["at"].dt.floor("1h") == row["at"]) & samples["ok"]]
    assert row["answers"] == len(chosen)
    assert row["p95"] == pytest.approx(np.percentile(chosen["total_ms"], 95))


def test_incidents_are_drawn_while_they_were_open(slow: tuple[pd.DataFrame, Verdict]) -> None:
    samples, verdict = slow
    begin = verdict.started_at - timedelta(days=2)
    over = Event("resolved", (begin + timedelta(hours=3)).isoformat(), "r", 2, "")
    resolved = Incident(
        "i", "regression", 2, begin.isoformat(), "", "", ["greeting first_token_ms"], [over], resolved=True
    )
    troubles = operations.troubles(verdict, [resolved])
    assert [(one.intent, one.until is None) for one in troubles] == [("greeting", False), ("faq", True)]
    hours = operations.over_time(samples, "first_token_ms", "1h")
    figure = opsplots.percentiles_by_intent(hours, budgets_ms(SETTINGS, "first_token_ms"), troubles, "made up")
    assert len(figure.layout.shapes) == 2
    assert sum(trace.name == "budget" for trace in figure.data) == hours["intent"].nunique()


def test_a_day_costs_tokens_times_prices(well: tuple[pd.DataFrame, Verdict]) -> None:
    samples, _ = well
    costs = operations.cost_a_day(samples, operations.Load(100_000, 0.1, 600), SETTINGS).set_index("what")["usd"]
    large = samples["model_id"].astype(str) == SETTINGS.sonnet_model_id
    answered = 100_000 * (large & samples["ok"]).sum() / len(samples)
    assert costs["answers, Sonnet"] == pytest.approx(answered * (600 * 3 + 100 * 15) / 1e6)
    assert costs["warm-up, a task"] == pytest.approx(SETTINGS.warmup_month_usd / 30, rel=0.05)


def test_capacity_is_what_the_busiest_hour_takes(well: tuple[pd.DataFrame, Verdict]) -> None:
    samples, _ = well
    table = operations.capacity(samples, operations.Load(360_000, 0.1, 600), SETTINGS).set_index("what")
    rate, seconds = 10.0, samples["total_ms"].mean() / 1000
    assert table.loc["answers at once, of a task's pool", "used"] == pytest.approx(rate * seconds, abs=0.1)
    assert table.loc["connections open", "used"] == rate * SETTINGS.idle_timeout_s
