"""Evaluation of a detector: false alarms where nothing changed, and how many runs it takes to detect a change.

Both are counted on synthetic histories with seeds, so the counts are reproducible. An alarm is a severity in a run whose
predecessor had none. For detection delays, the first token of a few intents changes in each synthetic history; each of these
series is a case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pandas as pd

from mangalib.benchmark import statistics
from mangalib.benchmark.detection.detector import detect_changes
from mangalib.benchmark.detection.series import METRICS, Floats, Ints
from mangalib.benchmark.detection.textbook import TextbookRule
from mangalib.benchmark.detection.verdict_frame import ERROR_RATE
from mangalib.benchmark.experiments import synthetic_history
from mangalib.benchmark.experiments.synthetic_history import Change, SyntheticHistory
from mangalib.settings import DetectorSettings

BASELINE_DAYS = 7.0
NEVER = 10_000
# The cases in one synthetic history: too few to be a change of all intents.
CASES = ("complaint", "faq", "other")


@dataclass(frozen=True)
class FalseAlarms:
    """A detector's output over ``days`` in which nothing changed: how many severities began, of any kind (``warnings``)
    and of SEV-2 or worse (``pages``), and in how many ``rows`` of the verdict frame there was one."""

    days: float
    warnings: int
    pages: int
    rows: int

    @property
    def warnings_a_day(self) -> float:
        """Severities that began, per day, over all series."""
        return self.warnings / self.days

    @property
    def pages_in_30_days(self) -> float:
        """SEV-2 or SEV-1 that began, per 30 days, over all series."""
        return self.pages / self.days * 30


Names = list[tuple[str, str]]
# Severities of shape (runs, series), and the series' intents and metrics, of the runs after a history's first seven days. The
# arguments are the history, the changes in it, a seed, and the series to judge (all of them where ``None``).
Detector = Callable[[SyntheticHistory, list[Change], int, Names | None], tuple[Ints, Names]]


class SingleRunRule(Protocol):
    """A rule for one series that judges each run against the runs before it."""

    def add_baseline(self, hours: Floats, latencies: Floats) -> None:
        """Add runs to the baseline without judging them; ``latencies`` has shape (runs, requests)."""

    def assess(self, hour: float, now: Floats) -> tuple[int, float, str]:
        """Severity, shift and reason of the next run."""


def sequential_detector(settings: DetectorSettings) -> Detector:
    """Our rule, its pooled series included."""

    def detect(history: SyntheticHistory, changes: list[Change], seed: int, only: Names | None) -> tuple[Ints, Names]:
        series = synthetic_history.series(history, changes, np.random.default_rng(seed))
        runs = int((series.hours >= _baseline_end_h(history)).sum())
        verdict_frame = detect_changes(series, settings=settings, last=runs)
        names = list(dict.fromkeys(zip(verdict_frame["intent"], verdict_frame["metric"], strict=True)))
        return verdict_frame["severity"].to_numpy().reshape(runs, len(names)), names

    return detect


def textbook_detector(settings: DetectorSettings) -> Detector:
    """The specification's rule, latencies only."""
    return single_run_detector(lambda: TextbookRule(settings))


def single_run_detector(make_rule: Callable[[], SingleRunRule]) -> Detector:
    """A detector that applies a new rule from ``make_rule`` to each series, latencies only."""

    def detect(history: SyntheticHistory, changes: list[Change], seed: int, only: Names | None) -> tuple[Ints, Names]:
        latencies, _ = synthetic_history.simulate(history, changes, np.random.default_rng(seed))
        hours = history.times_s / 3600
        first = int((hours < _baseline_end_h(history)).sum())
        names = [(intent, metric) for intent in history.levels_ms for metric in METRICS]
        wanted = [name for name in names if only is None or name in only]
        columns = []
        for name in wanted:
            at = names.index(name)
            values = latencies[:, at // len(METRICS), at % len(METRICS)]
            rule = make_rule()
            rule.add_baseline(hours[:first], values[:first])
            columns.append([rule.assess(hour, now)[0] for hour, now in zip(hours[first:], values[first:], strict=True)])
        return np.array(columns, dtype=np.intp).T, wanted

    return detect


def _baseline_end_h(history: SyntheticHistory) -> float:
    return float(history.times_s[0] / 3600 + BASELINE_DAYS * 24 - 1e-6)


def false_alarms(detector: Detector, history: SyntheticHistory, seed: int) -> FalseAlarms:
    """The alarms in a history in which nothing changed; its first seven days are the baseline and do not count."""
    severity, _ = detector(history, [], seed, None)
    return FalseAlarms(
        history.days - BASELINE_DAYS, _begins(severity, 1), _begins(severity, 2), int((severity > 0).sum())
    )


def _begins(severity: Ints, level: int) -> int:
    there = severity >= level
    return int((there & ~np.vstack([np.zeros_like(there[:1]), there[:-1]])).sum())


def delays(detector: Detector, history: SyntheticHistory, change: Change, seed: int, *, level: int = 1) -> list[int]:
    """After how many runs a change on day eight is detected with at least severity ``level``, for each case; ``NEVER`` if it is
    not.

    Where ``change.intents`` is ``None``, all intents change at once: one case, detected when any series shows it.
    """
    at_first = replace(change, first=round(BASELINE_DAYS * history.runs_per_day))
    if change.intents is None:
        severity, _ = detector(history, [at_first], seed, None)
        return [_first((severity >= level).any(axis=1))]
    metrics = (ERROR_RATE,) if change.error_rate is not None else change.metrics
    cases = [(intent, metric) for intent in change.intents for metric in metrics]
    severity, names = detector(history, [at_first], seed, cases)
    return [_first(severity[:, names.index(case)] >= level) for case in cases]


def _first(detected: Any) -> int:
    at = np.flatnonzero(detected)
    return int(at[0]) + 1 if len(at) else NEVER


@dataclass(frozen=True)
class Target:
    """A target: ``share`` of the cases of a change must reach severity ``level`` within ``within_runs`` runs."""

    name: str
    change: Change
    level: int
    within_runs: int
    share: float


TARGETS = (
    Target("×1.50, one series", Change(0, factor=1.5, intents=CASES, metrics=METRICS[:1]), 2, 2, 0.99),
    Target("×1.25, one series", Change(0, factor=1.25, intents=CASES, metrics=METRICS[:1]), 1, 4, 0.90),
    Target("×1.10, one series", Change(0, factor=1.10, intents=CASES, metrics=METRICS[:1]), 1, 12, 0.50),
    Target("one in ten ×3", Change(0, slow_share=0.1, intents=CASES, metrics=METRICS[:1]), 1, 8, 0.90),
    Target("×1.25, all intents", Change(0, factor=1.25), 1, 1, 0.90),
    Target("×1.10, all intents", Change(0, factor=1.10), 1, 3, 0.50),
    Target("3 % errors, all intents", Change(0, error_rate=0.03), 2, 2, 0.90),
    Target("10 % errors, all intents", Change(0, error_rate=0.10), 2, 2, 0.90),
)


def summary(delays: Iterable[int], target: Target) -> dict[str, float]:
    """Number, median and 95th percentile of detection delays in runs, and the share within the target."""
    runs = np.array(list(delays))
    return {
        "cases": len(runs),
        "median": float(np.median(runs)),
        "p95": float(np.quantile(runs, 0.95, method="higher")),
        "within": float((runs <= target.within_runs).mean()),
    }


def as_table(rows: list[dict[str, object]]) -> pd.DataFrame:
    """Summaries as a table; a change that was never detected has a missing delay."""
    table = pd.DataFrame(rows)
    for name in ("median", "p95"):
        if name in table:
            table[name] = table[name].where(table[name] < NEVER)
    return table


def single_run_rules(
    history: SyntheticHistory, change: Change | None, seed: int, settings: DetectorSettings
) -> dict[str, float]:
    """Share of runs and series on day eight at which simple rules raise an alarm, each run and series alone:
    Mann-Whitney alone, the run's p95 over two bands, and Mann-Whitney with Cohen's d and p95."""
    first = round(BASELINE_DAYS * history.runs_per_day)
    changes = [] if change is None else [replace(change, first=first, intents=None, metrics=METRICS)]
    latencies, _ = synthetic_history.simulate(
        replace(history, days=BASELINE_DAYS + 1), changes, np.random.default_rng(seed)
    )
    counts = np.zeros(4)
    total = 0
    for intent in range(latencies.shape[1]):
        for metric in range(latencies.shape[2]):
            before = np.sort(latencies[:first, intent, metric], axis=None)
            before_p95 = np.quantile(before, 0.95)
            for now in latencies[first:, intent, metric]:
                total += 1
                unlikely = statistics.mann_whitney(now, before) < settings.alpha
                over = np.quantile(now, 0.95) / before_p95 - 1
                large = statistics.cohens_d(now, before) >= settings.effect_size_min
                rules = unlikely, over >= settings.p95_sev3, over >= settings.p95_sev2
                counts += [*rules, unlikely and large and over >= settings.p95_sev3]
    return dict(zip(SINGLE_RUN_RULES, (counts / total).tolist(), strict=True))


SINGLE_RUN_RULES = (
    "Mann-Whitney p < .05",
    "raw p95 +10 % (SEV-3)",
    "raw p95 +25 % (SEV-2)",
    "p < .05, d >= 0.5, p95 +10 %",
)
