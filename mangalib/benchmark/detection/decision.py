"""Decisions: severity and reason of each intent and metric in a run, from the state of its charts."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mangalib.benchmark.detection.error_charts import ErrorChartState
from mangalib.benchmark.detection.latency_charts import ChartState
from mangalib.benchmark.detection.residuals import MIN_BASELINE_RUNS
from mangalib.benchmark.detection.series import METRICS, POOLED, Floats, Series
from mangalib.benchmark.detection.severity import SURE_SD, WARNING, Bands
from mangalib.benchmark.detection.verdict_frame import ERROR_RATE, VerdictRow

_SD_95 = 1.959964


def latency_rows(series: Series, run: int, state: ChartState, bands: Bands) -> list[VerdictRow]:
    """One row for each intent and metric, the pooled ones last."""

    def share(deviations: float) -> Floats:
        return np.asarray(np.expm1(np.clip(state.shift + deviations * state.error, -50, 50)))

    worse = state.judged & (state.direction > 0) & state.strong
    severity = np.where(worse, bands.judged(share(-SURE_SD), share(SURE_SD), state.page), 0)
    shift, low, high = share(0), share(-_SD_95), share(_SD_95)
    rows: list[VerdictRow] = []
    names = [(intent, metric) for intent in [*series.intents, POOLED] for metric in METRICS]
    for at, (intent, metric) in enumerate(names):
        changed = bool(state.direction[at]) and bool(state.judged[at])
        since = series.times[state.since[at]] if changed else pd.NaT
        interval = tuple(float(part[at]) if state.judged[at] else np.nan for part in (shift, low, high))
        direction = int(state.direction[at]) if state.judged[at] else 0
        count = run - int(state.since[at]) + 1
        reason = _latency_reason(state, at, int(severity[at]), interval, count, bands)
        key = (series.run_ids[run], series.times[run], intent, metric, int(severity[at]), since)
        rows.append((*key, *interval, reason, direction))
    return rows


def error_rows(series: Series, run: int, state: ErrorChartState, bands: Bands) -> list[VerdictRow]:
    """One row for each intent, the pooled one last."""
    severity = np.where(state.up, bands.judged(state.low, state.high, state.page), 0)
    # A single failure says little about the rate, and still is one more than there has ever been.
    surprising = state.up & (severity == 0) & (state.rate >= bands.starts[0])
    severity = np.where(surprising, WARNING, severity)
    rows: list[VerdictRow] = []
    for at, intent in enumerate([*series.intents, POOLED]):
        reason = _error_reason(state, at, run - int(state.since[at]) + 1)
        since = series.times[state.since[at]] if state.up[at] else pd.NaT
        key = (series.run_ids[run], series.times[run], intent, ERROR_RATE, int(severity[at]), since)
        interval = (float(state.rate[at]), float(state.low[at]), float(state.high[at]))
        rows.append((*key, *interval, reason, int(state.up[at])))
    return rows


def _latency_reason(
    state: ChartState, at: int, severity: int, interval: tuple[float, ...], count: int, bands: Bands
) -> str:
    if not state.judged[at]:
        runs = int(state.baseline_runs[at])
        if runs < MIN_BASELINE_RUNS:
            return f"not judged: its baseline has {runs} of at least {MIN_BASELINE_RUNS} runs"
        return "not judged: too few answers in this run"
    if state.direction[at] == 0:
        return "as its baseline"
    shift, low, high = (f"{100 * part:+.0f}" for part in interval)
    over = f"p95 {shift} % ({low} to {high} %) for {count} run{'s' if count > 1 else ''}"
    if state.direction[at] < 0:
        return f"improved: {over}"
    what = "a slow tail" if state.tail_only[at] else "slower"
    if severity < WARNING and interval[0] < bands.starts[0]:
        return f"{what}, but less than the {100 * bands.starts[0]:g} % that count: {over}"
    if severity < WARNING:
        return f"possibly {what}, but not certain: {over}"
    return f"{what}: {over}"


def _error_reason(state: ErrorChartState, at: int, count: int) -> str:
    if not state.judged[at]:
        return "not judged: no requests, or no baseline yet"
    if not state.up[at]:
        return "as its baseline"
    return (
        f"failing: {100 * state.rate[at]:.1f} % of requests ({100 * state.low[at]:.1f} to "
        f"{100 * state.high[at]:.1f} %) for {count} run{'s' if count > 1 else ''}, "
        f"usually {100 * state.usual[at]:.2g} %"
    )
