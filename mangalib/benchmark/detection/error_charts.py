"""Control charts of failed requests: counts of the newest runs against the rate that the baseline had.

The surprise of a count is the tail of the Poisson distribution at the baseline's rate, so that one failure after weeks
without any says more than three where some always fail.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv, gammainc

from mangalib.benchmark.detection.latency_charts import OVER_LOG_ODDS
from mangalib.benchmark.detection.series import Bools, Floats, Ints, Series

LOOK_BACK = 8
MIN_BASELINE_RUNS = 8
# Probability, by chance, of as many failures as open a change, and as many as are worth a page.
OPEN_CHANCE = 3e-4
PAGE_CHANCE = 1e-6
# Failures that the baseline is believed to have had beside those it had: none in a week still is not never.
_PRIOR_FAILURES = 0.15


@dataclass(frozen=True)
class ErrorChartState:
    """What the charts say of one run, by intent, all intents together last: arrays of shape (intents + 1,).

    ``rate`` is the share that failed since ``since``, between ``low`` and ``high`` with 90 % credibility (Jeffreys);
    ``usual`` the baseline's.
    """

    up: Bools
    since: Ints
    rate: Floats
    low: Floats
    high: Floats
    usual: Floats
    page: Bools
    judged: Bools


class ErrorCharts:
    """Follows the failures of all intents of ``series``: :meth:`step` for each run, in order, and :meth:`reading` for what is
    to be known of it."""

    def __init__(self, series: Series, *, window_h: float) -> None:
        self._hours = series.hours
        self._window_h = window_h
        self._asked = np.concatenate([series.asked, series.asked.sum(axis=1, keepdims=True)], axis=1)
        self._failed = np.concatenate([series.failed, series.failed.sum(axis=1, keepdims=True)], axis=1)
        runs, columns = self._asked.shape
        self._entered = 0
        # Sums over healthy runs before each run: a window's count is the difference of two of them.
        self._sums = np.zeros((runs + 1, 3, columns))
        self._last_healthy_h = np.full(columns, -np.inf)
        self._changed = np.zeros((runs, columns), dtype=bool)
        self._up = np.zeros(columns, dtype=bool)
        self._page = np.zeros(columns, dtype=bool)
        self._since = np.zeros(columns, dtype=np.intp)
        self._floor = np.zeros(columns, dtype=np.intp)
        self._rate = np.zeros(columns)
        self._run = -1
        self._usual, self._judged = np.zeros(columns), np.zeros(columns, dtype=bool)
        self._counts = np.zeros(columns), np.zeros(columns)

    def step(self, run: int) -> None:
        """Take one run in; earlier ones must have been taken before."""
        window = int(np.clip(run // 8, 1, LOOK_BACK))
        self._let_in(run - window)
        recent = np.arange(run, max(-1, run - window), -1)
        failed, asked, healthy = self._baseline()
        self._usual = (failed + _PRIOR_FAILURES) / (asked + 1)
        self._judged = (self._asked[run] > 0) & (healthy >= MIN_BASELINE_RUNS)
        self._run = run
        if self._up.any():
            self._close_what_is_over(recent)
        if self._up.any() or self._failed[recent].any():
            self._open_what_began(recent)
        else:
            self._counts = self._failed[run], self._asked[run]
        self._changed[run] |= self._up

    def state(self) -> ErrorChartState:
        """What is said of the run that was taken last."""
        failed, asked = self._counts
        low, high = _jeffreys(failed, asked)
        since = np.where(self._up, self._since, self._run)
        rate = failed / np.maximum(asked, 1)
        return ErrorChartState(self._up.copy(), since, rate, low, high, self._usual, self._page.copy(), self._judged)

    def _open_what_began(self, recent: Ints) -> None:
        failed, asked = np.cumsum(self._failed[recent], axis=0), np.cumsum(self._asked[recent], axis=0)
        reach = np.arange(len(recent))[:, None]
        first = np.where(self._up, self._since, self._floor)
        chance = np.where(failed > 0, gammainc(np.maximum(failed, 1), asked * self._usual), 1.0)
        chance = np.where(reach > self._run - first, 1.0, chance)
        best, columns = chance.argmin(axis=0), np.arange(len(first))
        least = chance[best, columns]
        self._counts = failed[best, columns], asked[best, columns]
        opens = ~self._up & self._judged & (least <= OPEN_CHANCE)
        self._since = np.where(opens, self._run - best, self._since)
        self._up |= opens
        for column in np.flatnonzero(opens):
            self._changed[self._since[column] : self._run + 1, column] = True
        self._page = (self._page | (least <= PAGE_CHANCE)) & self._up
        rate = np.maximum(self._counts[0] / np.maximum(self._counts[1], 1), self._usual)
        self._rate = np.where(self._up & self._judged, rate, self._rate)

    def _let_in(self, until: int) -> None:
        while self._entered < until:
            run = self._entered
            healthy = ~self._changed[run] & (self._asked[run] > 0)
            row = np.stack([self._failed[run], self._asked[run], np.ones(len(healthy))]) * healthy
            self._sums[run + 1] = self._sums[run] + row
            self._last_healthy_h = np.where(healthy, self._hours[run], self._last_healthy_h)
            self._entered += 1

    def _baseline(self) -> Floats:
        """Failures, requests and runs of each column's healthy window: it ends with its last healthy run."""
        start = np.searchsorted(self._hours, self._last_healthy_h - self._window_h)
        start = np.minimum(start, self._entered)
        columns = np.arange(len(start))
        return np.asarray(self._sums[self._entered] - self._sums[start, :, columns].T)

    def _close_what_is_over(self, recent: Ints) -> None:
        rate = np.maximum(self._rate, self._usual)
        gain = self._asked[recent] * (rate - self._usual) - self._failed[recent] * np.log(rate / self._usual)
        odds = np.cumsum(gain, axis=0)
        odds[np.arange(len(recent))[:, None] > self._run - self._since] = -np.inf
        best = odds.argmax(axis=0)
        over = self._up & self._judged & (odds[best, np.arange(len(best))] >= OVER_LOG_ODDS)
        for column in np.flatnonzero(over):
            self._floor[column] = self._run - best[column]
            self._up[column] = False
            self._changed[self._floor[column] : self._run + 1, column] = False


def _jeffreys(failed: Floats, asked: Floats) -> tuple[Floats, Floats]:
    """Both ends of the 90 % interval (Brown, Cai & DasGupta, 2001), each pair of counts worked out once."""
    pairs, which = np.unique(np.stack([failed, asked]), axis=1, return_inverse=True)
    low, high = (betaincinv(pairs[0] + 0.5, pairs[1] - pairs[0] + 0.5, share) for share in (0.05, 0.95))
    low = np.where(pairs[0] == 0, 0.0, low)
    return low[which], high[which]
