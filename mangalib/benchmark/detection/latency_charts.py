"""Control charts of latencies: for each run, which series have changed, since when, and by how much.

Three parts, one after the other: residuals against the baseline (``residuals``), the evidence in them (``evidence``), and
the changes that it shows (``changes``). How severe a change is, is decided in ``decision``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mangalib.benchmark.detection.changes import CHANNELS, ChangeDetector
from mangalib.benchmark.detection.evidence import Evidence
from mangalib.benchmark.detection.residuals import MIN_BASELINE_RUNS, ResidualModel
from mangalib.benchmark.detection.series import LOCATION, P95, TAIL, Bools, Floats, Ints, Series

# Evidence is sought in the newest 1 to LOOK_BACK runs; a run joins the baseline when it has left that window.
LOOK_BACK = 32


@dataclass(frozen=True)
class ChartState:
    """The charts after one run; arrays of shape (series,), the pooled series last.

    ``direction`` is +1 where a series is worse than its baseline, -1 where better; ``since`` the run with which that began;
    ``shift`` the change of the 95th percentile as a logarithm, ``error`` its standard error; ``strong`` whether the evidence
    still holds, ``page`` whether it ever justified a page; ``judged`` whether the run has answers and a baseline to be judged by;
    ``tail_only`` whether only the slowest requests changed; ``baseline_runs`` how many runs the baseline has.
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
    """Follows all intents and metrics of ``series``, run by run.

    ``window_h`` is the length of the baseline; an improvement becomes the new baseline after ``accept_after_h`` hours.
    """

    def __init__(self, series: Series, *, window_h: float, accept_after_h: float) -> None:
        self._hours = series.hours
        self._accept_after_h = accept_after_h
        self._model = ResidualModel(series, window_h=window_h)
        self._changes = ChangeDetector(len(series.run_ids), self._model.total)
        self._newest: tuple[int, Evidence, Bools, Floats]

    def step(self, run: int) -> None:
        """Take in one run, after all earlier ones."""
        model, changes = self._model, self._changes
        window = int(np.clip(run // 8, 1, LOOK_BACK))
        fit = model.fit()
        model.admit(run - window, fit, changes.changed)
        recent = np.arange(run, max(-1, run - window), -1)  # the newest first
        evidence = model.evidence(recent, fit)
        judged = np.isfinite(evidence.residuals[0, :, LOCATION]) & (fit.runs >= MIN_BASELINE_RUNS)
        changes.step(run, evidence, judged, admitted=model.admitted)
        accepted = changes.accept_improvements(run, self._hours, after_h=self._accept_after_h, admitted=model.admitted)
        for series, since in accepted:
            model.move(series, evidence.residuals[: run - since + 1, series])
        changes.mark(run)
        self._newest = run, evidence, judged, fit.runs

    def state(self) -> ChartState:
        """The charts after the newest run."""
        run, evidence, judged, baseline_runs = self._newest
        return _state(run, self._changes, evidence, judged, baseline_runs)


def _state(run: int, changes: ChangeDetector, evidence: Evidence, judged: Bools, baseline_runs: Floats) -> ChartState:
    moving = changes.direction != 0
    worse = (changes.direction > 0).any(axis=1)
    direction = np.where(worse, 1, np.where(moving.any(axis=1), -1, 0))
    relevant = moving & (changes.direction == direction[:, None])
    since = np.where(relevant, changes.since, run).min(axis=1)
    # The window with the strongest evidence among those since the change, else the newest run alone.
    reach = np.arange(len(evidence.scores))[:, None]
    scores = np.abs(evidence.scores[:, :, CHANNELS]).max(axis=2)
    best = np.where(reach > run - since, -np.inf, scores).argmax(axis=0)
    tail_moved = relevant[:, CHANNELS.index(TAIL)]
    channel = np.where(tail_moved, P95, LOCATION)
    series = np.arange(len(direction))
    return ChartState(
        direction=direction,
        since=since,
        shift=evidence.means[best, series, channel],
        error=evidence.errors[best, series, channel],
        strong=(changes.strong & relevant).any(axis=1),
        page=(changes.page & relevant).any(axis=1),
        judged=judged,
        tail_only=tail_moved & ~relevant[:, CHANNELS.index(LOCATION)],
        baseline_runs=baseline_runs,
    )
