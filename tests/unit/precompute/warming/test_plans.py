"""Warming plans and their simulation on a log."""

from __future__ import annotations

from datetime import UTC, datetime

import pandas as pd
import pytest

from mangalib.benchmark.experiments.simulated_customers import Customers
from mangalib.errors import DataError
from mangalib.precompute.prediction.session_log import read_table
from mangalib.precompute.warming import demand, plans
from mangalib.precompute.warming.measurement import held_out
from mangalib.precompute.warming.simulated_week import simulate_week
from mangalib.settings import load_settings

SETTINGS = load_settings()


def test_plans_follow_the_log() -> None:
    log = read_table(SETTINGS.data_dir / "example_sessions.csv")
    hours = demand.by_hour(log).groupby("hour")["count"].sum()
    assert hours.idxmax() in {19, 20, 21}, "the evening peak in Japan"
    assert len(plans.popular(log, 5)) == 5
    segments = plans.for_segments(log, 2)
    assert 2 <= len(segments) <= 10
    assert len(set(segments)) == len(segments)
    assert plans.before_hour(log, 20, 5) != plans.before_hour(log, 8, 5)
    with pytest.raises(DataError, match="no column segment"):
        demand.by_segment(log.drop(columns="segment"))
    with pytest.raises(DataError, match="no column entity"):
        demand.by_hour(log.drop(columns="entity"))


def test_the_held_out_share_of_sessions_is_as_asked_and_always_the_same() -> None:
    assert held_out("s", 1.0)
    assert not held_out("s", 0.0)
    assert 0.07 < sum(held_out(f"s{i}", 0.1) for i in range(5000)) / 5000 < 0.13


def test_a_simulated_week_keeps_every_program_within_its_budget() -> None:
    log = Customers(SETTINGS, seed=3).log(400, datetime(2026, 11, 1, tzinfo=UTC), 4)
    week = simulate_week(log, SETTINGS, hour_tokens=2_000)
    assert (week.hours["tokens"] <= 4 * 2_000).all()
    assert week.hours["hits"].sum() == week.programs["hits"].sum() > 0
    assert week.programs["tokens"].sum() == week.hours["tokens"].sum()
    nothing = simulate_week(log, load_settings(held_out_share=0.999999), hour_tokens=2_000)
    assert nothing.hours["hits"].sum() == 0, "held-out sessions are never served warmed answers"
    with pytest.raises(DataError, match="less than a day"):
        simulate_week(log[log["at"] < log["at"].min() + pd.Timedelta(hours=3)], SETTINGS, hour_tokens=2_000)
