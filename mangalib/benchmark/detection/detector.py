"""The detector: which runs are worse than the runs before them, since when, and by how much.

>>> rows = replay(samples)                             # doctest: +SKIP
>>> rows[rows["severity"] >= 2]                        # doctest: +SKIP

It keeps no state but the samples: whoever replays the same store comes to the same verdict. Two rules: ``sequential``, ours,
which sums evidence over runs (see ``charts``), and ``textbook``, the specification's own, to compare it with.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from mangalib.benchmark.detection import textbook
from mangalib.benchmark.detection.error_charts import ErrorCharts, ErrorChartState
from mangalib.benchmark.detection.latency_charts import MIN_BASELINE_RUNS, ChartState, LatencyCharts
from mangalib.benchmark.detection.series import METRICS, POOLED, Series, checked, summarise
from mangalib.benchmark.detection.severity import SURE_SD, WARNING, Bands
from mangalib.benchmark.detection.verdict_frame import ERROR_RATE, Row, as_frame
from mangalib.settings import Settings, load_settings

Rule = Literal["sequential", "textbook"]
_SD_95 = 1.959964


def replay(
    samples: pd.DataFrame, *, rule: Rule = "sequential", settings: Settings | None = None, progress: bool = False
) -> pd.DataFrame:
    """Judge every run of ``samples`` by the runs before it.

    Parameters
    ----------
    samples : DataFrame in the store's columns, over any span and in any order
    rule : ``sequential`` or ``textbook``
    settings : the bands of severity and the length of the baseline; by default those of the environment
    progress : whether to show a bar

    Returns
    -------
    DataFrame
        One row per run, intent and metric (``first_token_ms``, ``total_ms``, ``error_rate``), and under ``sequential``
        rows of intent ``*`` for what all intents show together. ``severity`` is 0 (none) to 3 (SEV-1). ``shift`` is that
        of the 95th percentile over the baseline as a share (0.25 is 25 % more) with its 95 % interval ``shift_low`` to
        ``shift_high``; for ``error_rate`` it is the share of requests that failed. ``since`` is the start of the first
        run of the change, missing where there is none; ``direction`` is +1 where worse, -1 where better; ``reason`` says
        it in words.

    Raises
    ------
    DataError
        A column is missing or of the wrong type, or a value cannot be (NaN, negative); names the run and the field.
    """
    settings = settings or load_settings()
    if rule == "textbook":
        return textbook.replay_textbook(samples, settings=settings, progress=progress)
    if checked(samples).empty:
        return as_frame([])
    return follow(summarise(samples), settings=settings, progress=progress)


def follow(series: Series, *, settings: Settings, progress: bool = False, last: int | None = None) -> pd.DataFrame:
    """The sequential rule on series; rows of the ``last`` runs only, where given."""
    window_h = settings.baseline_days * 24
    charts = LatencyCharts(series, window_h=window_h, accept_after_h=settings.improvement_lasts_h)
    errors = ErrorCharts(series, window_h=window_h)
    rows: list[Row] = []
    runs = range(len(series.run_ids))
    for run in tqdm(runs, desc="runs", disable=not progress, leave=False):
        charts.step(run)
        errors.step(run)
        if last is None or run >= len(runs) - last:
            rows += _latency_rows(series, run, charts.state(), Bands.of_p95(settings))
            rows += _error_rows(series, run, errors.state(), Bands.of_errors(settings))
    return as_frame(rows)


def _latency_rows(series: Series, run: int, state: ChartState, bands: Bands) -> list[Row]:
    def share(deviations: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        return np.asarray(np.expm1(np.clip(state.shift + deviations * state.error, -50, 50)))

    worse = state.judged & (state.direction > 0) & state.strong
    severity = np.where(worse, bands.judged(share(-SURE_SD), share(SURE_SD), state.page), 0)
    shift, low, high = share(0), share(-_SD_95), share(_SD_95)
    rows: list[Row] = []
    for at, (intent, metric) in enumerate(_names(series.intents, METRICS)):
        changed = bool(state.direction[at]) and bool(state.judged[at])
        since = series.times[state.since[at]] if changed else pd.NaT
        interval = tuple(float(part[at]) if state.judged[at] else np.nan for part in (shift, low, high))
        direction = int(state.direction[at]) if state.judged[at] else 0
        count = run - int(state.since[at]) + 1
        reason = _latency_reason(state, at, int(severity[at]), interval, count, bands)
        head = (series.run_ids[run], series.times[run], intent, metric, int(severity[at]), since)
        rows.append((*head, *interval, reason, direction))
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
        return f"perhaps {what}, but not surely: {over}"
    return f"{what}: {over}"


def _error_rows(series: Series, run: int, state: ErrorChartState, bands: Bands) -> list[Row]:
    severity = np.where(state.up, bands.judged(state.low, state.high, state.page), 0)
    # A single failure says little of the rate, and still is one more than there ever was.
    surprising = state.up & (severity == 0) & (state.rate >= bands.starts[0])
    severity = np.where(surprising, WARNING, severity)
    rows: list[Row] = []
    for at, intent in enumerate([*series.intents, POOLED]):
        count = run - int(state.since[at]) + 1
        if not state.judged[at]:
            reason = "not judged: no requests, or no baseline yet"
        elif not state.up[at]:
            reason = "as its baseline"
        else:
            reason = (
                f"failing: {100 * state.rate[at]:.1f} % of requests ({100 * state.low[at]:.1f} to "
                f"{100 * state.high[at]:.1f} %) for {count} run{'s' if count > 1 else ''}, "
                f"usually {100 * state.usual[at]:.2g} %"
            )
        since = series.times[state.since[at]] if state.up[at] else pd.NaT
        head = (series.run_ids[run], series.times[run], intent, ERROR_RATE, int(severity[at]), since)
        interval = (float(state.rate[at]), float(state.low[at]), float(state.high[at]))
        rows.append((*head, *interval, reason, int(state.up[at])))
    return rows


def _names(intents: list[str], metrics: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(intent, metric) for intent in [*intents, POOLED] for metric in metrics]
