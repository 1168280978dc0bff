"""The verdict on a run: how severe, what, since when, and by how much; summed up in one sentence for the engineer on call.

It is a pure function of the store, so every machine comes to the same verdict. The actions that follow are in ``incidents``.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from mangalib.benchmark import statistics
from mangalib.benchmark.detection.detector import detect_changes
from mangalib.benchmark.detection.residuals import MIN_BASELINE_RUNS
from mangalib.benchmark.detection.series import (
    METRICS,
    MIN_TAIL_SAMPLES,
    POOLED,
    Floats,
    Series,
    checked,
    invalid_runs,
    summarise,
)
from mangalib.benchmark.detection.severity import NAMES, SURE_SD, Bands
from mangalib.benchmark.detection.verdict_frame import ERROR_RATE
from mangalib.benchmark.store import Store, days_before
from mangalib.domain import ROUTES, Intent
from mangalib.errors import DataError
from mangalib.settings import DetectorSettings

SLOWER, FAILING, TARGET = "slower", "failing", "over target"
# A baseline of MIN_BASELINE_RUNS, those that have not joined it yet, and the run to judge.
MIN_RUNS = MIN_BASELINE_RUNS * 3 // 2
_SAME_TIME_H = 1.5
# The columns that a verdict reads.
_JUDGED = ("run_id", "started_at", "at", "sequence", "intent", *METRICS, "ok", "warmup")
_SHIFTS = [
    f"{name}_shift{unit}{end}" for name in ("p50", "p95") for unit in ("", "_ms") for end in ("", "_low", "_high")
]
_COMPARED = [
    *("intent", "metric", "answers", "baseline_answers", "p50", "p50_baseline", "p95", "p95_baseline"),
    *_SHIFTS,
    *("probability_slower", "p_value", "cohens_d", "visible_d"),
]
_MS = {"first_token_ms": "first token", "total_ms": "whole answer"}


@dataclass(frozen=True)
class Finding:
    """One problem: its kind, where it is, how severe, since when, by how much (shares with an interval), and in words."""

    kind: str
    intent: str
    metric: str
    severity: int
    since: datetime | None
    shift: float
    shift_low: float
    shift_high: float
    reason: str


@dataclass(frozen=True)
class Verdict:
    """The result for one run. ``still_open`` lists each (intent, metric) that is worse than its baseline, however little;
    ``comparison`` is a table by intent and metric, see :func:`compared`; ``notes`` name what was left out or not judged."""

    run_id: str
    started_at: datetime
    severity: int
    sentence: str
    findings: list[Finding]
    improved: list[str]
    still_open: list[tuple[str, str]]
    comparison: pd.DataFrame
    baseline_runs: int
    baseline_days: float
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The verdict as plain values, for ``--json`` and result records; times in ISO 8601, missing numbers as ``null``."""
        findings = [asdict(finding) | {"severity": NAMES[finding.severity]} for finding in self.findings]
        for finding in findings:
            finding["since"] = finding["since"].isoformat() if finding["since"] else None
        plain: dict[str, Any] = {
            "run_id": self.run_id,
            "started_at": self.started_at.isoformat(),
            "severity": NAMES[self.severity],
            "sentence": self.sentence,
            "findings": findings,
            "improved": self.improved,
            "baseline_runs": self.baseline_runs,
            "baseline_days": round(self.baseline_days, 2),
            "comparison": self.comparison.to_dict("records"),
            "notes": self.notes,
        }
        return {name: _without_nan(value) for name, value in plain.items()}


def judge_run(store: Store, settings: DetectorSettings, *, run_id: str | None = None) -> Verdict:
    """The verdict on ``run_id``, or on the newest run, against the runs before it.

    Raises
    ------
    DataError
        The store is empty or has no such run, there are too few runs before it, a file lacks a column, or the judged run
        has invalid values. Earlier runs with invalid values are left out and named in the notes.
    """
    if run_id is None:
        run_id, started = store.require_newest()
    else:
        started = store.started_at(run_id)
    loaded = store.load(days_before(started, settings.look_back_days), started, columns=_JUDGED)
    notes = [f"{name} is not a complete Parquet file and was left out" for name in loaded.unreadable]
    return judge_samples(loaded.samples, settings, run_id=run_id, notes=notes)


def judge_samples(samples: pd.DataFrame, settings: DetectorSettings, *, run_id: str, notes: list[str]) -> Verdict:
    """The verdict on run ``run_id``, which must be the newest of ``samples``; raises like :func:`judge_run`."""
    samples, left_out = _without_invalid(checked(samples), run_id)
    series = summarise(samples)
    _require_enough(series, run_id)
    verdict_frame = detect_changes(series, settings=settings, last=1)
    started = series.times[-1].to_pydatetime()
    begin = days_before(started, settings.baseline_days)
    is_judged = (samples["run_id"] == run_id).to_numpy()
    in_baseline = ~is_judged & (samples["started_at"] >= begin).to_numpy()
    now, before_now = samples[is_judged], samples[in_baseline]
    findings = sorted(
        _worse(verdict_frame) + _over_target(now, verdict_frame, settings), key=lambda finding: -finding.severity
    )
    notes = notes + left_out + _gaps(verdict_frame, now, before_now)
    first = series.times[series.times >= pd.Timestamp(begin)][0]
    span_days = (series.times[-1] - first) / pd.Timedelta(days=1)
    if span_days < settings.baseline_days * 0.9:
        notes.append(f"the baseline is young: {span_days:.1f} of {settings.baseline_days:g} days")
    baseline_runs = int((series.times >= pd.Timestamp(begin)).sum()) - 1
    worse = verdict_frame[verdict_frame["direction"] > 0]
    better = verdict_frame[verdict_frame["direction"] < 0]
    return Verdict(
        run_id=run_id,
        started_at=started,
        severity=max((finding.severity for finding in findings), default=0),
        sentence=_sentence(findings, verdict_frame, baseline_runs, span_days),
        findings=findings,
        improved=[f"{_name(row)} {row['reason']}" for row in _records(better)],
        still_open=[(row["intent"], row["metric"]) for row in _records(worse)],
        comparison=compared(now, _same_time_of_day(before_now, started)),
        baseline_runs=baseline_runs,
        baseline_days=span_days,
        notes=notes,
    )


def _without_invalid(samples: pd.DataFrame, run_id: str) -> tuple[pd.DataFrame, list[str]]:
    """``samples`` without runs that have invalid values, and a note on each; ``run_id`` itself must be valid."""
    invalid = invalid_runs(samples)
    if run_id in invalid:
        raise DataError(f"no verdict on run {run_id}: {invalid[run_id]}")
    if invalid:
        samples = samples[~samples["run_id"].isin(invalid.keys())]
    return samples, [f"run {name} was left out: {problem}" for name, problem in invalid.items()]


def _require_enough(series: Series, run_id: str) -> None:
    runs = len(series.run_ids)
    if runs < MIN_RUNS:
        before = {1: "it is the only run"}.get(runs, f"{runs - 1} runs came before it")
        raise DataError(
            f"no verdict on run {run_id} yet: {before}, and {MIN_RUNS - 1} are needed to say what is normal"
        )


def compared(now: pd.DataFrame, before: pd.DataFrame) -> pd.DataFrame:
    """A run's requests compared with those of the baseline, by intent and metric: ``p50``, ``p95`` (ms), their shifts in ms
    and as shares with 95 % intervals, ``probability_slower`` (that a request of the run is slower than one of the baseline;
    0.5 is no change), ``p_value`` of the Mann-Whitney test, ``cohens_d``, and ``visible_d``: the smallest shift, in standard
    deviations of a request, that this many requests show with a power of 0.8."""
    rows = []
    for intent in sorted(now["intent"].unique()):
        for metric in METRICS:
            a, b = (_latencies(part, intent, metric) for part in (now, before))
            row: dict[str, Any] = {"intent": intent, "metric": metric, "answers": len(a), "baseline_answers": len(b)}
            if len(a) >= 5 and len(b) >= 5:
                row |= _compared(a, np.sort(b))
            rows.append(row)
    return pd.DataFrame(rows).reindex(columns=_COMPARED)


def _same_time_of_day(before: pd.DataFrame, moment: datetime) -> pd.DataFrame:
    """Requests of runs within 90 minutes of the same time of day, so that the daily cycle does not show as a shift. All of
    them, where there are too few such runs."""
    starts = before["started_at"]
    apart_h = (starts - pd.Timestamp(moment)).dt.total_seconds().to_numpy() / 3600 % 24
    near = np.minimum(apart_h, 24 - apart_h) <= _SAME_TIME_H
    return before[near] if starts[near].nunique() >= MIN_RUNS else before


def _compared(now: Floats, ordered: Floats) -> dict[str, float]:
    row: dict[str, float] = {}
    for name, share in (("p50", 0.5), ("p95", 0.95)):
        present, baseline = (statistics.quantile_interval(values, share) for values in (now, ordered))
        ratio = statistics.ratio_interval(present, baseline)
        row |= {name: present.value, f"{name}_baseline": baseline.value}
        for end, value in zip(("", "_low", "_high"), ratio, strict=True):
            row |= {f"{name}_shift{end}": value - 1, f"{name}_shift_ms{end}": (value - 1) * baseline.value}
    row["probability_slower"] = statistics.probability_slower(now, ordered)
    row["p_value"] = statistics.mann_whitney(now, ordered)
    row["cohens_d"] = statistics.cohens_d(now, ordered)
    row["visible_d"] = statistics.smallest_detectable_d(len(now), len(ordered))
    return row


def _latencies(samples: pd.DataFrame, intent: str, metric: str) -> Floats:
    chosen = (samples["intent"] == intent).to_numpy() & samples["ok"].to_numpy(dtype=bool)
    return np.asarray(samples[metric].to_numpy(dtype=np.float64, na_value=np.nan)[chosen])


def _worse(verdict_frame: pd.DataFrame) -> list[Finding]:
    return [
        Finding(
            FAILING if row["metric"] == ERROR_RATE else SLOWER,
            row["intent"],
            row["metric"],
            int(row["severity"]),
            row["since"].to_pydatetime() if pd.notna(row["since"]) else None,
            float(row["shift"]),
            float(row["shift_low"]),
            float(row["shift_high"]),
            row["reason"],
        )
        for row in _records(verdict_frame[verdict_frame["severity"] > 0])
    ]


def _over_target(now: pd.DataFrame, verdict_frame: pd.DataFrame, settings: DetectorSettings) -> list[Finding]:
    """First tokens over their budget, except where an intent is slower than usual: that is a finding already."""
    bands, level = Bands.of_target(settings), 2 * float(_normal_cdf(SURE_SD)) - 1
    is_slower = (verdict_frame["direction"] > 0) & (verdict_frame["metric"] == METRICS[0])
    slower = set(verdict_frame.loc[is_slower, "intent"])
    findings = []
    for intent in sorted(set(now["intent"].unique()) & set(Intent)):
        values = _latencies(now, intent, METRICS[0])
        if intent in slower or POOLED in slower or len(values) < MIN_TAIL_SAMPLES:
            continue
        budget_ms = ROUTES[Intent(intent)].first_token_budget_ms(settings)
        p95 = statistics.quantile_interval(values, 0.95, level=level)
        over, low, high = (value / budget_ms - 1 for value in p95)
        severity = int(bands.judged(np.array(low), np.array(high), np.array(True)))
        if severity:
            reason = f"first token p95 {p95.value:.0f} ms, {100 * over:+.0f} % over its budget of {budget_ms:g} ms"
            findings.append(Finding(TARGET, intent, METRICS[0], severity, None, over, low, high, reason))
    return findings


def _normal_cdf(deviation: float) -> float:
    return 0.5 * (1 + math.erf(deviation / math.sqrt(2)))


def _gaps(verdict_frame: pd.DataFrame, now: pd.DataFrame, before: pd.DataFrame) -> list[str]:
    here, then = (set(part["intent"].unique()) for part in (now, before))
    notes = [f"{intent} was asked before, and not in this run" for intent in sorted(then - here)]
    notes += [f"{intent} is new: nothing to compare it with" for intent in sorted(here - then)]
    not_judged = verdict_frame["reason"].str.startswith("not judged")
    unjudged = verdict_frame[not_judged & verdict_frame["intent"].isin(here & then)]
    notes += [f"{_name(row)} {row['reason']}" for row in _records(unjudged)]
    answered = set(now.loc[now["ok"].to_numpy(dtype=bool), "intent"].unique())
    notes += [f"{intent}: every request failed, so there are no latencies" for intent in sorted(here - answered)]
    return notes


def _sentence(findings: list[Finding], verdict_frame: pd.DataFrame, runs: int, days: float) -> str:
    if not findings:
        small = _records(verdict_frame[verdict_frame["direction"] > 0])
        extra = f"; {_name(small[0])} {small[0]['reason']}" if small else ""
        return f"All right: nothing is worse than in the {runs} runs of the last {days:.1f} days{extra}."
    worst = findings[0]
    where = "all intents together" if worst.intent == POOLED else worst.intent
    others = sorted({finding.intent for finding in findings} - {worst.intent, POOLED})
    also = f" (also {', '.join(others)})" if others else ""
    since = f", since {worst.since:%d %b %H:%M} UTC" if worst.since else ""
    what = f"{_MS[worst.metric]} " if worst.kind == SLOWER else ""
    return f"{NAMES[worst.severity]}: {where}{also}: {what}{worst.reason}{since}."


def _name(row: dict[str, Any]) -> str:
    where = "all intents" if row["intent"] == POOLED else row["intent"]
    return f"{where}, {_MS.get(row['metric'], 'errors')}:"


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.itertuples(index=False, name=None)]


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.item() if isinstance(value, np.generic) else value
