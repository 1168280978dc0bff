"""Control charts of failed requests: counts of the newest runs against the baseline's failure rate.

How unlikely a count is, is the tail of the Poisson distribution at the baseline's rate: one failure after weeks without any
is stronger evidence than three where some always fail.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv, gammainc

from mangalib.benchmark.detection.changes import OVER_LOG_ODDS
from mangalib.benchmark.detection.residuals import MIN_BASELINE_RUNS
from mangalib.benchmark.detection.series import Bools, Floats, Ints, Series

LOOK_BACK = 8
# Probability, by chance, of as many failures as open a change, and of as many as justify a page.
OPEN_CHANCE = 3e-4
PAGE_CHANCE = 1e-6
# Failures that the baseline is assumed to have had beside those it had: none in a week still is not never.
_PRIOR_FAILURES = 0.15


@dataclass(frozen=True)
class ErrorChartState:
    """The charts after one run, by intent, all intents together last: arrays of shape (intents + 1,).

    ``up`` is whether the failure rate has risen, ``since`` the run with which that began; ``rate`` is the share that
    failed since then, between ``low`` and ``high`` with 90 % credibility (Jeffreys); ``usual`` is the baseline's; ``page`` is
    whether the evidence ever justified a page; ``judged`` whether the run has requests and a baseline to be judged by.
    """

    up: Bools
    since: Ints
    rate: Floats
    low: Floats
    high: Floats
    usual: Floats
    page: Bools
    judged: Bools


class FailureBaseline:
    """Failures, requests and number of healthy runs in the last ``window_h`` hours, by column.

    The window of a column ends with its last healthy run: while none comes, nothing is forgotten.
    """

    def __init__(self, hours: Floats, failed: Floats, requests: Floats, *, window_h: float) -> None:
        self._hours, self._failed, self._requests = hours, failed, requests
        self._window_h = window_h
        runs, columns = requests.shape
        self._admitted = 0
        # Sums over healthy runs before each run: a window's count is the difference of two of them.
        self._sums = np.zeros((runs + 1, 3, columns))
        self._last_healthy_h = np.full(columns, -np.inf)

    def admit(self, until: int, changed: Bools) -> None:
        """Admit runs before ``until`` where they are healthy; ``changed`` has shape (runs, columns)."""
        while self._admitted < until:
            run = self._admitted
            healthy = ~changed[run] & (self._requests[run] > 0)
            counts = np.stack([self._failed[run], self._requests[run], np.ones(len(healthy))]) * healthy
            self._sums[run + 1] = self._sums[run] + counts
            self._last_healthy_h = np.where(healthy, self._hours[run], self._last_healthy_h)
            self._admitted += 1

    def counts(self) -> Floats:
        """Failures, requests and runs in the window of each column: shape (3, columns)."""
        start = np.searchsorted(self._hours, self._last_healthy_h - self._window_h)
        start = np.minimum(start, self._admitted)
        columns = np.arange(len(start))
        return np.asarray(self._sums[self._admitted] - self._sums[start, :, columns].T)


class ErrorCharts:
    """Follows the failures of all intents of ``series``, run by run; ``window_h`` is the length of the baseline."""

    def __init__(self, series: Series, *, window_h: float) -> None:
        self._requests = np.concatenate([series.requests, series.requests.sum(axis=1, keepdims=True)], axis=1)
        self._failed = np.concatenate([series.failed, series.failed.sum(axis=1, keepdims=True)], axis=1)
        self._baseline = FailureBaseline(series.hours, self._failed, self._requests, window_h=window_h)
        runs, columns = self._requests.shape
        self._run = -1
        self._usual, self._judged = np.zeros(columns), np.zeros(columns, dtype=bool)
        self._changed = np.zeros((runs, columns), dtype=bool)
        self._up = np.zeros(columns, dtype=bool)
        self._page = np.zeros(columns, dtype=bool)
        self._since = np.zeros(columns, dtype=np.intp)
        # The first run in which the next change may begin.
        self._floor = np.zeros(columns, dtype=np.intp)
        self._rate = np.zeros(columns)
        self._counts = np.zeros(columns), np.zeros(columns)

    def step(self, run: int) -> None:
        """Take in one run, after all earlier ones."""
        window = int(np.clip(run // 8, 1, LOOK_BACK))
        self._baseline.admit(run - window, self._changed)
        recent = np.arange(run, max(-1, run - window), -1)  # the newest first
        failed, requests, healthy_runs = self._baseline.counts()
        self._usual = (failed + _PRIOR_FAILURES) / (requests + 1)
        self._judged = (self._requests[run] > 0) & (healthy_runs >= MIN_BASELINE_RUNS)
        self._run = run
        if self._up.any():
            self._close_changes(recent)
        if self._up.any() or self._failed[recent].any():
            self._open_changes(recent)
        else:
            self._counts = self._failed[run], self._requests[run]
        self._changed[run] |= self._up

    def state(self) -> ErrorChartState:
        """The charts after the newest run."""
        failed, requests = self._counts
        low, high = _jeffreys_interval(failed, requests)
        since = np.where(self._up, self._since, self._run)
        rate = failed / np.maximum(requests, 1)
        return ErrorChartState(self._up.copy(), since, rate, low, high, self._usual, self._page.copy(), self._judged)

    def _open_changes(self, recent: Ints) -> None:
        failed, requests = np.cumsum(self._failed[recent], axis=0), np.cumsum(self._requests[recent], axis=0)
        reach = np.arange(len(recent))[:, None]
        first = np.where(self._up, self._since, self._floor)
        chance = np.where(failed > 0, gammainc(np.maximum(failed, 1), requests * self._usual), 1.0)
        chance = np.where(reach > self._run - first, 1.0, chance)
        best, columns = chance.argmin(axis=0), np.arange(len(first))
        least = chance[best, columns]
        self._counts = failed[best, columns], requests[best, columns]
        opens = ~self._up & self._judged & (least <= OPEN_CHANCE)
        self._since = np.where(opens, self._run - best, self._since)
        self._up |= opens
        for column in np.flatnonzero(opens):
            self._changed[self._since[column] : self._run + 1, column] = True
        self._page = (self._page | (least <= PAGE_CHANCE)) & self._up
        rate = np.maximum(self._counts[0] / np.maximum(self._counts[1], 1), self._usual)
        self._rate = np.where(self._up & self._judged, rate, self._rate)

    def _close_changes(self, recent: Ints) -> None:
        """Sum, over the newest runs, of how much better the baseline's rate explains them than the raised one."""
        rate = np.maximum(self._rate, self._usual)
        gain = self._requests[recent] * (rate - self._usual) - self._failed[recent] * np.log(rate / self._usual)
        odds = np.cumsum(gain, axis=0)
        odds[np.arange(len(recent))[:, None] > self._run - self._since] = -np.inf
        best = odds.argmax(axis=0)
        over = self._up & self._judged & (odds[best, np.arange(len(best))] >= OVER_LOG_ODDS)
        for column in np.flatnonzero(over):
            self._floor[column] = self._run - best[column]
            self._up[column] = False
            self._changed[self._floor[column] : self._run + 1, column] = False


def _jeffreys_interval(failed: Floats, requests: Floats) -> tuple[Floats, Floats]:
    """Both ends of the 90 % interval (Brown, Cai & DasGupta, 2001); equal pairs of counts are computed once."""
    pairs, which = np.unique(np.stack([failed, requests]), axis=1, return_inverse=True)
    low, high = (betaincinv(pairs[0] + 0.5, pairs[1] - pairs[0] + 0.5, share) for share in (0.05, 0.95))
    low = np.where(pairs[0] == 0, 0.0, low)
    return low[which], high[which]
