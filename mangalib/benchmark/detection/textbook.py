"""The specification's rule, taken literally: Mann-Whitney at alpha, Cohen's d large enough, severity by the run's p95.

Each run alone is compared with all requests of the baseline's days. It serves as a reference for ``detector``.
"""

from __future__ import annotations

import math
from collections import deque
from typing import cast

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from mangalib.benchmark.detection.series import METRICS, Floats, checked, invalid_runs
from mangalib.benchmark.detection.severity import Bands
from mangalib.benchmark.detection.verdict_frame import ERROR_RATE, VerdictRow, as_frame
from mangalib.benchmark.statistics import cohens_d, mann_whitney
from mangalib.errors import DataError
from mangalib.settings import DetectorSettings

MIN_SAMPLES = 2


class TextbookRule:
    """Judges the runs of one series, in order, each against all requests of the days before it."""

    def __init__(self, settings: DetectorSettings) -> None:
        self._settings = settings
        self._bands = Bands.of_p95(settings)
        self._ordered: Floats = np.empty(0)
        self._runs: deque[tuple[float, Floats]] = deque()

    def add_baseline(self, hours: Floats, latencies: Floats) -> None:
        """Add runs to the baseline without judging them; ``latencies`` has shape (runs, requests)."""
        self._ordered = np.sort(latencies, axis=None)
        self._runs.extend((float(hour), np.sort(run)) for hour, run in zip(hours, latencies, strict=True))

    def assess(self, hour: float, now: Floats) -> tuple[int, float, str]:
        """Severity of a run with latencies ``now``, shift of its p95 over the baseline's as a share, and the reason in words."""
        self._forget_before(hour - self._settings.baseline_days * 24)
        result = _assess(now, self._ordered, self._settings, self._bands)
        values = np.sort(now)
        self._ordered = np.insert(self._ordered, np.searchsorted(self._ordered, values), values)
        self._runs.append((hour, values))
        return result

    def _forget_before(self, hour: float) -> None:
        while self._runs and self._runs[0][0] < hour:
            _, values = self._runs.popleft()
            first = np.searchsorted(self._ordered, values, side="left")
            # Equal values stand next to each other: each is deleted once.
            repeats = np.arange(len(values)) - np.searchsorted(values, values, side="left")
            self._ordered = np.delete(self._ordered, first + repeats)


def apply_textbook_rule(samples: pd.DataFrame, *, settings: DetectorSettings, progress: bool = False) -> pd.DataFrame:
    """The verdict frame of ``detector.replay`` without rows of intent ``*``; ``since`` is the run itself, and ``shift`` the
    run's p95 over the baseline's, without an interval.

    Raises ``DataError`` for a missing column and for a run with invalid values.
    """
    samples = checked(samples)
    for run_id, problem in invalid_runs(samples).items():
        raise DataError(f"run {run_id}: {problem}")
    error_bands = Bands.of_errors(settings)
    rules: dict[tuple[str, str], TextbookRule] = {}
    rows: list[VerdictRow] = []
    runs = samples.groupby(["started_at", "run_id"], sort=True, observed=True)
    for key, run in tqdm(runs, desc="runs", disable=not progress, leave=False):
        started, run_id = cast(tuple[pd.Timestamp, str], key)
        hour = started.timestamp() / 3600
        for name, part in run.groupby("intent", sort=True, observed=True):
            intent = str(name)
            for metric in METRICS:
                now = part.loc[part["ok"], metric].to_numpy(dtype=np.float64)
                rule = rules.setdefault((intent, metric), TextbookRule(settings))
                severity, shift, reason = rule.assess(hour, now)
                since = started if severity else pd.NaT
                direction = int(severity > 0)
                rows.append(
                    (run_id, started, intent, metric, severity, since, shift, np.nan, np.nan, reason, direction)
                )
            rate = 1 - float(part["ok"].mean())
            severity = int(error_bands.literal(np.array(rate)))
            since = started if severity else pd.NaT
            reason = f"{100 * rate:.1f} % of requests failed"
            rows.append(
                (run_id, started, intent, ERROR_RATE, severity, since, rate, np.nan, np.nan, reason, int(severity > 0))
            )
    return as_frame(rows)


def _assess(now: Floats, before: Floats, settings: DetectorSettings, bands: Bands) -> tuple[int, float, str]:
    if len(now) < MIN_SAMPLES or len(before) < MIN_SAMPLES:
        return 0, math.nan, "not judged: too few requests, in this run or before it"
    p_value = mann_whitney(now, before)
    d = cohens_d(now, before)
    shift = float(np.quantile(now, 0.95) / np.quantile(before, 0.95)) - 1
    reason = f"p95 {100 * shift:+.0f} %, p = {p_value:.2g}, d = {d:.2f}"
    if p_value >= settings.alpha or d < settings.effect_size_min:
        return 0, shift, reason
    return int(bands.literal(np.array(shift))), shift, reason
