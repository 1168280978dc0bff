"""Changes: which series have left their baseline, in which direction, and since which run.

The window with the strongest evidence dates a change: a generalised likelihood ratio test for the moment of a change
(Lorden, 1971; Willsky & Jones, 1976). A change is over when the runs since then fit the baseline far better than the change
(Wald, 1945).
"""

from __future__ import annotations

import numpy as np

from mangalib.benchmark.detection.evidence import Evidence
from mangalib.benchmark.detection.series import LOCATION, TAIL, Bools, Floats

CHANNELS = (LOCATION, TAIL)
# Deviations of a window's mean that open a change, and that justify a page; by channel. The tail's mean is skewed and so
# needs more, and a window of few runs needs more than a long one. An open change counts for as long as its evidence stays
# within FADE_SD of what opens one, and is taken for chance when it has fallen by FORGET_SD. All set by simulation: see
# benchmarks/detector.py.
OPEN_SD, OPEN_EXTRA_SD = np.array([3.9, 4.4]), 0.8
PAGE_SD, PAGE_EXTRA_SD = np.array([4.3, 5.1]), 1.05
FADE_SD, FORGET_SD = 0.5, 2.0
# The odds, as a logarithm, at which a change is over: a thousand to one.
OVER_LOG_ODDS = 6.9


class ChangeDetector:
    """Follows ``series`` series over ``runs`` runs; arrays have shape (series, channels) unless noted.

    ``direction`` is +1 where a channel is worse than its baseline, -1 where better, 0 where unchanged; ``since`` the run
    with which that began; ``page`` whether the evidence ever justified a page, ``strong`` whether it still holds. ``changed``,
    of shape (runs, series), marks the runs that belong to a change and must not join the baseline.
    """

    def __init__(self, runs: int, series: int) -> None:
        shape = (series, len(CHANNELS))
        self.direction = np.zeros(shape, dtype=np.intp)
        self.since = np.zeros(shape, dtype=np.intp)
        self.page = np.zeros(shape, dtype=bool)
        self.strong = np.zeros(shape, dtype=bool)
        self.changed = np.zeros((runs, series), dtype=bool)
        self._level = np.zeros(shape)
        # The first run in which the next change may begin.
        self._floor = np.zeros(shape, dtype=np.intp)

    def step(self, run: int, evidence: Evidence, judged: Bools, *, admitted: int) -> None:
        """Take the evidence of one run; ``judged`` (series,) is where there is any. What is marked in ``changed`` for the
        ``admitted`` oldest runs stays as it is: the baseline has read it already."""
        self._close_changes(run, evidence, judged, admitted)
        self._open_changes(run, evidence, judged, admitted)

    def accept_improvements(self, run: int, hours: Floats, *, after_h: float, admitted: int) -> list[tuple[int, int]]:
        """End improvements that have lasted ``after_h`` hours, and return each as (series, run of its beginning).

        What is slower never ends in this way. ``hours`` (runs,) is when each run started.
        """
        lasted = hours[run] - hours[self.since] >= after_h
        better = (self.direction < 0) & lasted
        accepted = []
        for series in np.flatnonzero(better.any(axis=1) & ~(self.direction > 0).any(axis=1)).tolist():
            since = int(self.since[series][self.direction[series] < 0].min())
            self.direction[series] = 0
            self._floor[series] = run + 1
            self.changed[max(since, admitted) : run + 1, series] = False
            accepted.append((series, since))
        return accepted

    def mark(self, run: int) -> None:
        """Mark in ``changed`` where ``run`` belongs to a change."""
        self.changed[run] = (self.direction != 0).any(axis=1)

    def _close_changes(self, run: int, evidence: Evidence, judged: Bools, admitted: int) -> None:
        """Sum, over the newest runs, of how much better the baseline explains them than the change does."""
        if not self.direction.any():
            return
        residuals = evidence.residuals[:, :, CHANNELS]
        gain = self._level * (self._level / 2 - residuals) / evidence.variances[:, :, CHANNELS]
        odds = np.cumsum(np.nan_to_num(gain), axis=0)
        odds[np.arange(len(odds))[:, None, None] > run - self.since] = -np.inf
        best = odds.argmax(axis=0)
        over = (self.direction != 0) & judged[:, None] & (np.take_along_axis(odds, best[None], 0)[0] >= OVER_LOG_ODDS)
        for series, channel in np.argwhere(over):
            floor = run - best[series, channel]
            self._close(series, channel, floor, healthy_from=max(floor, admitted), run=run)

    def _open_changes(self, run: int, evidence: Evidence, judged: Bools, admitted: int) -> None:
        scores = evidence.scores[:, :, CHANNELS]
        reach = np.arange(len(scores))[:, None, None]
        first = np.where(self.direction != 0, self.since, self._floor)
        scores = np.where(reach > run - first, 0.0, scores)
        above = np.abs(scores) - OPEN_EXTRA_SD / (reach + 1)
        best = above.argmax(axis=0)
        strongest = np.take_along_axis(above, best[None], 0)[0]
        sign = np.sign(np.take_along_axis(scores, best[None], 0)[0]).astype(np.intp)
        opens = (self.direction == 0) & judged[:, None] & (strongest >= OPEN_SD)
        self.direction = np.where(opens, sign, self.direction)
        self.since = np.where(opens, run - best, self.since)
        justifies_page = (scores - PAGE_EXTRA_SD / (reach + 1) ** 1.5).max(axis=0) >= PAGE_SD
        self.page = (self.page | justifies_page) & (self.direction > 0)
        self.strong = strongest >= OPEN_SD - FADE_SD
        means = np.take_along_axis(evidence.means[:, :, CHANNELS], best[None], 0)[0]
        running = (self.direction != 0) & judged[:, None]
        self._level = np.where(running, np.where(np.sign(means) == self.direction, means, self._level), 0.0)
        for series, channel in np.argwhere(opens):
            self.changed[self.since[series, channel] : run + 1, series] = True
        for series, channel in np.argwhere(running & (strongest < OPEN_SD - FORGET_SD)):
            healthy_from = max(self.since[series, channel], admitted)
            self._close(series, channel, run + 1, healthy_from=healthy_from, run=run)

    def _close(self, series: int, channel: int, floor: int, *, healthy_from: int, run: int) -> None:
        """End a change: the next one can begin in run ``floor`` at the earliest."""
        self._floor[series, channel] = floor
        self.direction[series, channel] = 0
        self.page[series, channel] = False
        if not self.direction[series].any():
            self.changed[healthy_from : run + 1, series] = False
