"""Residuals: what remains of each run after its baseline is subtracted, for every series and for all intents together."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mangalib.benchmark.detection.baseline import Baseline, Fit, features
from mangalib.benchmark.detection.evidence import Evidence
from mangalib.benchmark.detection.series import LOCATION, METRICS, P95, TAIL, Bools, Floats, Ints, Series

MIN_BASELINE_RUNS = 8
# What is assumed before there are runs: standard deviation from run to run beside the sampling error, and how much more
# the tail and the 95th percentile vary than the location.
_PRIOR_RUN_TO_RUN_SD = 0.05
_PRIOR_SD_RATIO = np.array([1.0, 1.5, 2.0])


class ResidualModel:
    """The baselines of all intents and metrics of ``series``, followed by one pooled series for each metric.

    A pooled residual is the mean over intents without the highest and the lowest. Its run-to-run variation is estimated
    like that of any other series, so that noise which intents share does not count as evidence. ``window_h`` is the length of
    the baseline; ``admitted`` counts the runs, the oldest first, that have been considered for it so far.
    """

    def __init__(self, series: Series, *, window_h: float) -> None:
        runs, intents = series.values.shape[:2]
        self.own = intents * len(METRICS)
        self.total = self.own + len(METRICS)
        self.admitted = 0
        self._features = features(series.hours)
        self._values = series.values.reshape(runs, self.own, 3)
        self._counts = series.counts.reshape(runs, self.own)
        self._variances = series.variances.reshape(runs, self.own)
        self._metric = np.concatenate([np.tile(np.arange(len(METRICS)), intents), np.arange(len(METRICS))])
        self._baseline = Baseline(series.hours, self.total, 3, window_h=window_h)
        # Sums over admitted runs of a request's variance and of 1 / answers; how many runs these are.
        self._variance_sum, self._rate_sum, self._admitted_runs = (
            np.zeros(self.own),
            np.zeros(self.own),
            np.zeros(self.own),
        )
        self._offset = np.zeros((self.total, 3))

    def fit(self) -> Fit:
        """The baseline of all series as of now."""
        return self._baseline.fit(self._prior_sd())

    def admit(self, until: int, fit: Fit, changed: Bools) -> None:
        """Admit runs before ``until`` to the baseline where they are healthy; ``changed`` has shape (runs, series)."""
        while self.admitted < until:
            run = self.admitted
            pooled_changed = changed[run, self.own :][self._metric]
            expected = fit.expected(self._features[run : run + 1])[0]
            values = self.residuals(np.array([run]), fit)[0] + expected
            values[self.own :][fit.runs[self.own - len(METRICS) : self.own] < MIN_BASELINE_RUNS] = np.nan
            healthy = np.isfinite(values[:, LOCATION]) & ~changed[run] & ~pooled_changed
            # A value that a run does not have is assumed to be as expected.
            values = np.where(np.isfinite(values), values, expected)
            self._baseline.add(run, values, healthy, fit)
            own = healthy[: self.own]
            self._variance_sum += np.where(own, self._variances[run], 0.0)
            self._rate_sum += np.where(own, 1 / np.maximum(self._counts[run], 1), 0.0)
            self._admitted_runs += own
            self.admitted += 1

    def residuals(self, runs: Ints, fit: Fit) -> Floats:
        """Values of ``runs`` less what was expected of them: shape (runs, series, 3)."""
        expected = fit.expected(self._features[runs]) + self._offset
        residuals = self._values[runs] - expected[:, : self.own]
        pooled = _trimmed_mean(residuals.reshape(len(runs), -1, len(METRICS), 3))
        return np.concatenate([residuals, pooled - expected[:, self.own :]], axis=1)

    def evidence(self, recent: Ints, fit: Fit) -> Evidence:
        """Evidence in the runs ``recent``, the newest first."""
        relative_variance = self._relative_variance(recent, fit)
        return Evidence.from_residuals(
            self.residuals(recent, fit), relative_variance, fit, self._features[int(recent[0])]
        )

    def move(self, series: int, residuals: Floats) -> None:
        """Move what is normal for a series by the mean of ``residuals`` (runs, 3).

        A pooled series has no level of its own to move: it follows its intents.
        """
        if series < self.own:
            present = np.isfinite(residuals)
            self._offset[series] += np.where(present, residuals, 0.0).sum(axis=0) / np.maximum(present.sum(axis=0), 1)

    def _prior_sd(self) -> Floats:
        runs = np.maximum(self._admitted_runs, 1)
        sampling = np.where(self._admitted_runs > 0, self._variance_sum / runs * self._rate_sum / runs, 0.01)
        pooled = [sampling[self._metric[: self.own] == m].mean() for m in range(len(METRICS))]
        variances = np.concatenate([sampling, pooled])[:, None] * _PRIOR_SD_RATIO**2
        return np.asarray(np.sqrt(variances + np.array([1.0, 0.0, 1.0]) * _PRIOR_RUN_TO_RUN_SD**2))

    def _relative_variance(self, recent: Ints, fit: Fit) -> Floats:
        """Variance of each run relative to a usual one: fewer samples vary more. Shape (runs, series, 3)."""
        runs = np.maximum(self._admitted_runs, 1)
        usual_rate = self._rate_sum / runs
        rate = 1 / np.maximum(self._counts[recent], 1)
        excess = np.where(usual_rate > 0, rate / np.where(usual_rate > 0, usual_rate, 1) - 1, 0.0)
        by_sampling = np.clip(self._variance_sum / runs * usual_rate / fit.sd[: self.own, LOCATION] ** 2, 0, 1)
        relative = np.ones((len(recent), self.total, 3))
        relative[:, : self.own, LOCATION] += by_sampling * excess
        relative[:, : self.own, TAIL] += excess
        relative[:, : self.own, P95] += excess
        return relative


def _trimmed_mean(values: npt.NDArray[Any]) -> Floats:
    """Mean along axis 1 without the highest and the lowest, where there are four or more; NaN where there are none."""
    present = np.isfinite(values)
    count = present.sum(axis=1)
    total = np.where(present, values, 0.0).sum(axis=1)
    trim = count >= 4
    highest = np.where(present, values, -np.inf).max(axis=1, initial=-np.inf)
    lowest = np.where(present, values, np.inf).min(axis=1, initial=np.inf)
    total = total - np.where(trim, highest, 0.0) - np.where(trim, lowest, 0.0)
    kept = count - 2 * trim
    return np.where(kept > 0, total / np.maximum(kept, 1), np.nan)
