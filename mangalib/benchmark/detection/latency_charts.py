"""Control charts: evidence, summed over runs, that a series has left its baseline, since when, and by how much.

For each series the mean residual of the last 1, 2, ... runs is compared with what chance would do, and the window that says
most is taken: a generalised likelihood ratio test for the moment of a change (Lorden, 1971; Willsky & Jones, 1976). A change
that was found is over when the runs since then fit the baseline far better than the change (Wald, 1945). Pooled series are
the mean over intents without the highest and the lowest, with a spread that is learned like any other: so that luck which
intents share is not taken for evidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mangalib.benchmark.detection.baseline import Baseline, Fit, features
from mangalib.benchmark.detection.series import LOCATION, METRICS, P95, TAIL, Bools, Floats, Ints, Series

# Evidence is looked for in the newest 1 to LOOK_BACK runs; a run joins the baseline when it has left that window.
LOOK_BACK = 32
MIN_BASELINE_RUNS = 8
CHANNELS = (LOCATION, TAIL)
# Deviations of a window's mean that open a change, and that are worth a page; by channel. The tail's mean is skewed and so
# needs more, and a window of few runs needs more than a long one. An open change counts for as long as its evidence stays
# within FADE_SD of what opens one, and is taken for chance when it has fallen by FORGET_SD. All set by simulation: see
# benchmarks/detector.py.
OPEN_SD, OPEN_EXTRA_SD = np.array([3.9, 4.4]), 0.8
PAGE_SD, PAGE_EXTRA_SD = np.array([4.3, 5.1]), 1.05
FADE_SD, FORGET_SD = 0.5, 2.0
# The odds, as a logarithm, at which a change is over: a thousand to one.
OVER_LOG_ODDS = 6.9
# How fast the channels' scatter falls with more samples in a run, beside the run's own wander.
_PRIOR_WANDER = 0.05
_PRIOR_SPREAD = np.array([1.0, 1.5, 2.0])


@dataclass(frozen=True)
class ChartState:
    """What the charts say of one run; arrays of shape (series,), the pooled series last.

    ``direction`` is +1 where a series is worse than its baseline, -1 where better; ``since`` the run it began with;
    ``shift`` that of the 95th percentile as a logarithm, with its standard error ``error``; ``strong`` whether the
    evidence still holds, ``page`` whether it was ever worth a page; ``judged`` whether there was anything to judge, and a
    baseline to judge it by; ``tail_only`` whether the rest of the requests is as it was.
    """

    direction: Ints
    since: Ints
    shift: Floats
    error: Floats
    strong: Bools
    page: Bools
    judged: Bools
    tail_only: Bools
    baseline_runs: Floats


class LatencyCharts:
    """Follows all intents and metrics of ``series``: :meth:`step` for each run, in order, and :meth:`reading` for what is
    to be known of it."""

    def __init__(self, series: Series, *, window_h: float, accept_after_h: float) -> None:
        runs, intents = series.values.shape[:2]
        self._own = intents * len(METRICS)
        total = self._own + len(METRICS)
        self._hours = series.hours
        self._rows = features(self._hours)
        self._values = series.values.reshape(runs, self._own, 3)
        self._counts = series.counts.reshape(runs, self._own)
        self._spreads = series.spreads.reshape(runs, self._own)
        self._metric = np.concatenate([np.tile(np.arange(len(METRICS)), intents), np.arange(len(METRICS))])
        self._accept_after_h = accept_after_h
        self._baseline = Baseline(self._hours, total, 3, window_h=window_h)
        self._entered = 0
        self._spread_sum, self._rate_sum, self._seen = np.zeros(self._own), np.zeros(self._own), np.zeros(self._own)
        self._offset = np.zeros((total, 3))
        self._changed = np.zeros((runs, total), dtype=bool)
        shape = (total, len(CHANNELS))
        self._direction = np.zeros(shape, dtype=np.intp)
        self._since = np.zeros(shape, dtype=np.intp)
        self._level = np.zeros(shape)
        self._page = np.zeros(shape, dtype=bool)
        self._floor = np.zeros(shape, dtype=np.intp)
        self._strong = np.zeros(shape, dtype=bool)
        self._now: tuple[int, _Evidence, Fit, Bools]

    def step(self, run: int) -> None:
        """Take one run in; earlier ones must have been taken before."""
        window = int(np.clip(run // 8, 1, LOOK_BACK))
        fit = self._baseline.fit(self._prior_sd())
        self._let_in(run - window, fit)
        recent = np.arange(run, max(-1, run - window), -1)  # the newest first
        residuals = self._residuals(recent, fit)
        evidence = _Evidence.of(residuals, self._relative_variance(recent, fit), fit, self._rows[run])
        judged = np.isfinite(residuals[0, :, LOCATION]) & (fit.runs >= MIN_BASELINE_RUNS)
        self._close_what_is_over(run, evidence, judged)
        self._open_what_began(run, evidence, judged)
        self._accept_what_lasts(run, residuals)
        self._changed[run] = (self._direction != 0).any(axis=1)
        self._now = run, evidence, fit, judged

    # What is normal

    def _prior_sd(self) -> Floats:
        seen = np.maximum(self._seen, 1)
        sampling = np.where(self._seen > 0, self._spread_sum / seen * self._rate_sum / seen, 0.01)
        pooled = [sampling[self._metric[: self._own] == m].mean() for m in range(len(METRICS))]
        variances = np.concatenate([sampling, pooled])[:, None] * _PRIOR_SPREAD**2
        return np.asarray(np.sqrt(variances + np.array([1.0, 0.0, 1.0]) * _PRIOR_WANDER**2))

    def _let_in(self, until: int, fit: Fit) -> None:
        while self._entered < until:
            run = self._entered
            pooled_changed = self._changed[run, self._own :][self._metric]
            expected = fit.expected(self._rows[run : run + 1])[0]
            values = self._residuals(np.array([run]), fit)[0] + expected
            values[self._own :][fit.runs[self._own - len(METRICS) : self._own] < MIN_BASELINE_RUNS] = np.nan
            healthy = np.isfinite(values[:, LOCATION]) & ~self._changed[run] & ~pooled_changed
            # What a run says nothing of is taken to be as expected.
            values = np.where(np.isfinite(values), values, expected)
            self._baseline.add(run, values, healthy, fit)
            own = healthy[: self._own]
            self._spread_sum += np.where(own, self._spreads[run], 0.0)
            self._rate_sum += np.where(own, 1 / np.maximum(self._counts[run], 1), 0.0)
            self._seen += own
            self._entered += 1

    def _residuals(self, recent: Ints, fit: Fit) -> Floats:
        """What is left of runs beyond what was expected of them: shape (runs, series, 3)."""
        expected = fit.expected(self._rows[recent]) + self._offset
        residuals = self._values[recent] - expected[:, : self._own]
        pooled = _trimmed_mean(residuals.reshape(len(recent), -1, len(METRICS), 3))
        return np.concatenate([residuals, pooled - expected[:, self._own :]], axis=1)

    def _relative_variance(self, recent: Ints, fit: Fit) -> Floats:
        """Variance of each run against that of a usual one: fewer samples scatter more. Shape (runs, series, 3)."""
        seen = np.maximum(self._seen, 1)
        usual_rate = self._rate_sum / seen
        rate = 1 / np.maximum(self._counts[recent], 1)
        excess = np.where(usual_rate > 0, rate / np.where(usual_rate > 0, usual_rate, 1) - 1, 0.0)
        by_sampling = np.clip(self._spread_sum / seen * usual_rate / fit.sd[: self._own, LOCATION] ** 2, 0, 1)
        relative = np.ones((len(recent), len(self._metric), 3))
        relative[:, : self._own, LOCATION] += by_sampling * excess
        relative[:, : self._own, TAIL] += excess
        relative[:, : self._own, P95] += excess
        return relative

    # What changed

    def _close_what_is_over(self, run: int, evidence: _Evidence, judged: Bools) -> None:
        """Sum, over the newest runs, of how much better the baseline explains them than the change does."""
        if not self._direction.any():
            return
        sides = evidence.residuals[:, :, CHANNELS]
        gain = self._level * (self._level / 2 - sides) / evidence.variances[:, :, CHANNELS]
        odds = np.cumsum(np.nan_to_num(gain), axis=0)
        odds[np.arange(len(odds))[:, None, None] > run - self._since] = -np.inf
        best = odds.argmax(axis=0)
        over = (self._direction != 0) & judged[:, None] & (np.take_along_axis(odds, best[None], 0)[0] >= OVER_LOG_ODDS)
        for series, channel in np.argwhere(over):
            floor = run - best[series, channel]
            self._close(series, channel, floor, healthy_from=floor, run=run)

    def _close(self, series: int, channel: int, floor: int, *, healthy_from: int, run: int) -> None:
        """A change is over, or was none: evidence of another is looked for from run ``floor`` on."""
        self._floor[series, channel] = floor
        self._direction[series, channel] = 0
        self._page[series, channel] = False
        if not self._direction[series].any():
            self._changed[max(healthy_from, self._entered) : run + 1, series] = False

    def _open_what_began(self, run: int, evidence: _Evidence, judged: Bools) -> None:
        scores = evidence.scores[:, :, CHANNELS]
        reach = np.arange(len(scores))[:, None, None]
        first = np.where(self._direction != 0, self._since, self._floor)
        scores = np.where(reach > run - first, 0.0, scores)
        above = np.abs(scores) - OPEN_EXTRA_SD / (reach + 1)
        best = above.argmax(axis=0)
        strongest = np.take_along_axis(above, best[None], 0)[0]
        sign = np.sign(np.take_along_axis(scores, best[None], 0)[0]).astype(np.intp)
        opens = (self._direction == 0) & judged[:, None] & (strongest >= OPEN_SD)
        self._direction = np.where(opens, sign, self._direction)
        self._since = np.where(opens, run - best, self._since)
        worth_a_page = (scores - PAGE_EXTRA_SD / (reach + 1) ** 1.5).max(axis=0) >= PAGE_SD
        self._page = (self._page | worth_a_page) & (self._direction > 0)
        self._strong = strongest >= OPEN_SD - FADE_SD
        means = np.take_along_axis(evidence.means[:, :, CHANNELS], best[None], 0)[0]
        running = (self._direction != 0) & judged[:, None]
        self._level = np.where(running, np.where(np.sign(means) == self._direction, means, self._level), 0.0)
        for series, channel in np.argwhere(opens):
            self._changed[self._since[series, channel] : run + 1, series] = True
        for series, channel in np.argwhere(running & (strongest < OPEN_SD - FORGET_SD)):
            self._close(series, channel, run + 1, healthy_from=self._since[series, channel], run=run)

    def _accept_what_lasts(self, run: int, residuals: Floats) -> None:
        """An improvement that has lasted becomes the new normal; a rise never does by itself.

        What is pooled has no normal of its own to move: it follows that of its intents.
        """
        lasted = self._hours[run] - self._hours[self._since] >= self._accept_after_h
        better = (self._direction < 0) & lasted
        for series in np.flatnonzero(better.any(axis=1) & ~(self._direction > 0).any(axis=1)):
            since = self._since[series][self._direction[series] < 0].min()
            if series < self._own:
                recent = residuals[: run - since + 1, series]
                present = np.isfinite(recent)
                self._offset[series] += np.where(present, recent, 0.0).sum(axis=0) / np.maximum(present.sum(axis=0), 1)
            self._direction[series] = 0
            self._floor[series] = run + 1
            self._changed[max(since, self._entered) : run + 1, series] = False

    # What is said of it

    def state(self) -> ChartState:
        """What is said of the run that was taken last."""
        run, evidence, fit, judged = self._now
        moving = self._direction != 0
        worse = (self._direction > 0).any(axis=1)
        direction = np.where(worse, 1, np.where(moving.any(axis=1), -1, 0))
        relevant = self._direction == direction[:, None]
        since = np.where(relevant & moving, self._since, run).min(axis=1)
        # The window that says most among those since the change, else the newest run alone.
        reach = np.arange(len(evidence.scores))[:, None]
        scores = np.abs(evidence.scores[:, :, CHANNELS]).max(axis=2)
        best = np.where(reach > run - since, -np.inf, scores).argmax(axis=0)
        tail_moved = (moving & relevant)[:, CHANNELS.index(TAIL)]
        channel = np.where(tail_moved, P95, LOCATION)
        series = np.arange(len(direction))
        shift, error = evidence.means[best, series, channel], evidence.errors[best, series, channel]
        strong, page = ((flag & moving & relevant).any(axis=1) for flag in (self._strong, self._page))
        tail_only = tail_moved & ~(moving & relevant)[:, CHANNELS.index(LOCATION)]
        return ChartState(direction, since, shift, error, strong, page, judged, tail_only, fit.runs)


@dataclass(frozen=True)
class _Evidence:
    """Of the newest k runs, k along the first axis: their mean residual, its standard error, and the ratio of the two as
    a deviation of the normal distribution; shape (windows, series, 3)."""

    residuals: Floats
    variances: Floats
    means: Floats
    errors: Floats
    scores: Floats

    @classmethod
    def of(cls, residuals: Floats, relative: Floats, fit: Fit, row: Floats) -> _Evidence:
        variances = relative * fit.sd**2
        present = np.isfinite(residuals)
        counts = np.maximum(np.cumsum(present, axis=0), 1)
        means = np.cumsum(np.where(present, residuals, 0.0), axis=0) / counts
        scatter = np.cumsum(np.where(present, variances, 0.0), axis=0) / counts**2
        posterior_variance = (fit.uncertainty(row)[:, None] * fit.sd**2)[None]
        errors = np.sqrt(scatter + posterior_variance + 1e-12)
        degrees = np.maximum(fit.runs, 1)[:, None]
        return cls(residuals, variances, means, errors, _as_normal(means / errors, degrees))


def _as_normal(t: Floats, degrees: Floats) -> Floats:
    """A deviate of Student's t as the one of the normal distribution that is as unlikely (Wallace, 1959)."""
    factor = (8 * degrees + 1) / (8 * degrees + 3)
    return np.asarray(np.sign(t) * factor * np.sqrt(degrees * np.log1p(t**2 / degrees)))


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
