"""How good a rule is: false alarms where nothing changed, and how many runs it takes where something did.

Both are counted on made-up pasts with seeds, so that anyone can count again. An alarm is a severity where none was in the run
before. What changes in a study of delays is one series at a time, as far as the rule can tell: a few intents' first token in
each made-up past, each of them a case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pandas as pd

from mangalib.benchmark import statistics
from mangalib.benchmark.detection.detector import follow
from mangalib.benchmark.detection.series import METRICS, Floats, Ints
from mangalib.benchmark.detection.textbook import TextbookRule, rank_test
from mangalib.benchmark.detection.verdict_frame import ERROR_RATE
from mangalib.benchmark.experiments import synthetic_history as history
from mangalib.benchmark.experiments.synthetic_history import Change, SyntheticHistory
from mangalib.settings import Settings

LEARNING_DAYS = 7.0
NEVER = 10_000
# Cases in one made-up past: so few that they are no change of the whole.
CASES = ("complaint", "faq", "other")


@dataclass(frozen=True)
class FalseAlarms:
    """What a rule said while nothing changed, over ``days``: severities that began, by kind, and rows that had one."""

    days: float
    warnings: int
    pages: int
    rows: int

    @property
    def warnings_a_day(self) -> float:
        """SEV-3 that began, a day, over all series."""
        return self.warnings / self.days

    @property
    def pages_in_30_days(self) -> float:
        """SEV-2 or SEV-1 that began, in 30 days, over all series."""
        return self.pages / self.days * 30


Names = list[tuple[str, str]]
# Severities of shape (runs, series), and the series' intents and metrics, of a past's runs after the first seven days: by the
# past, what changes in it, a seed, and the series that matter where not all do.
Judge = Callable[[SyntheticHistory, list[Change], int, Names | None], tuple[Ints, Names]]


class Rule(Protocol):
    """A rule that judges each run of one series against the runs before it."""

    def learn(self, hours: Floats, latencies: Floats) -> None:
        """Take runs (runs, requests) as normal."""

    def judge(self, hour: float, now: Floats) -> tuple[int, float, str]:
        """Severity, shift and words for the next run."""


def sequential(settings: Settings) -> Judge:
    """Our rule, with its pooled rows."""

    def judge(past: SyntheticHistory, changes: list[Change], seed: int, only: Names | None) -> tuple[Ints, Names]:
        series = history.series(past, changes, np.random.default_rng(seed))
        judged = int((series.hours >= _learned_h(past)).sum())
        rows = follow(series, settings=settings, last=judged)
        names = list(dict.fromkeys(zip(rows["intent"], rows["metric"], strict=True)))
        return rows["severity"].to_numpy().reshape(judged, len(names)), names

    return judge


def textbook(settings: Settings) -> Judge:
    """The specification's rule, latencies only."""
    return each_run_alone(lambda: TextbookRule(settings))


def each_run_alone(make: Callable[[], Rule]) -> Judge:
    """A rule that is made anew for each series."""

    def judge(past: SyntheticHistory, changes: list[Change], seed: int, only: Names | None) -> tuple[Ints, Names]:
        latencies, _ = history.simulate(past, changes, np.random.default_rng(seed))
        hours = past.times_s / 3600
        first = int((hours < _learned_h(past)).sum())
        names = [(intent, metric) for intent in past.levels_ms for metric in METRICS]
        wanted = [name for name in names if only is None or name in only]
        columns = []
        for name in wanted:
            at = names.index(name)
            values = latencies[:, at // len(METRICS), at % len(METRICS)]
            rule = make()
            rule.learn(hours[:first], values[:first])
            columns.append([rule.judge(hour, now)[0] for hour, now in zip(hours[first:], values[first:], strict=True)])
        return np.array(columns, dtype=np.intp).T, wanted

    return judge


def _learned_h(past: SyntheticHistory) -> float:
    return float(past.times_s[0] / 3600 + LEARNING_DAYS * 24 - 1e-6)


def false_alarms(judge: Judge, past: SyntheticHistory, seed: int) -> FalseAlarms:
    """What a rule says of a past in which nothing changed; its first seven days are for learning and do not count."""
    severity, _ = judge(past, [], seed, None)
    return FalseAlarms(past.days - LEARNING_DAYS, _begins(severity, 1), _begins(severity, 2), int((severity > 0).sum()))


def _begins(severity: Ints, level: int) -> int:
    there = severity >= level
    return int((there & ~np.vstack([np.zeros_like(there[:1]), there[:-1]])).sum())


def delays(judge: Judge, past: SyntheticHistory, change: Change, seed: int, *, level: int = 1) -> list[int]:
    """In how many runs a change after seven days is seen with at least that severity, for each case; ``NEVER`` if it is not.

    ``change.intents`` of ``None`` is a change of all intents at once: one case, seen when any row shows it.
    """
    at_first = replace(change, first=round(LEARNING_DAYS * past.runs_per_day))
    if change.intents is None:
        severity, _ = judge(past, [at_first], seed, None)
        return [_first((severity >= level).any(axis=1))]
    metrics = (ERROR_RATE,) if change.error_rate is not None else change.metrics
    cases = [(intent, metric) for intent in change.intents for metric in metrics]
    severity, names = judge(past, [at_first], seed, cases)
    return [_first(severity[:, names.index(case)] >= level) for case in cases]


def _first(seen: Any) -> int:
    at = np.flatnonzero(seen)
    return int(at[0]) + 1 if len(at) else NEVER


# The changes whose delays are studied, by name, with the severity that must be reached, the runs that it may take, and the
# share of cases that must be seen by then.
@dataclass(frozen=True)
class Target:
    """One line of what a detector must reach."""

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


def summary(found: Iterable[int], target: Target) -> dict[str, float]:
    """Of delays: their median and 95th percentile, and the share within the target."""
    runs = np.array(list(found))
    return {
        "cases": len(runs),
        "median": float(np.median(runs)),
        "p95": float(np.quantile(runs, 0.95, method="higher")),
        "within": float((runs <= target.within_runs).mean()),
    }


def as_table(rows: list[dict[str, object]]) -> pd.DataFrame:
    """Rows of a study, runs that never came as missing."""
    table = pd.DataFrame(rows)
    for name in ("median", "p95"):
        if name in table:
            table[name] = table[name].where(table[name] < NEVER)
    return table


def single_run_rules(past: SyntheticHistory, change: Change | None, seed: int, settings: Settings) -> dict[str, float]:
    """Share of runs and series of a day after the seven that simple rules alarm at, each run and series alone:
    Mann-Whitney alone, the run's p95 over two bands, and Mann-Whitney with Cohen's d and p95."""
    first = round(LEARNING_DAYS * past.runs_per_day)
    changes = [] if change is None else [replace(change, first=first, intents=None, metrics=METRICS)]
    latencies, _ = history.simulate(replace(past, days=LEARNING_DAYS + 1), changes, np.random.default_rng(seed))
    counts = np.zeros(4)
    total = 0
    for intent in range(latencies.shape[1]):
        for metric in range(latencies.shape[2]):
            before = np.sort(latencies[:first, intent, metric], axis=None)
            before_p95 = np.quantile(before, 0.95)
            for now in latencies[first:, intent, metric]:
                total += 1
                unlikely = rank_test(now, before) < settings.alpha
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
