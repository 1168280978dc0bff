"""Tables of the benchmark: budgets, latencies of an intent, runs over time, and a verdict's findings by intent."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from mangalib.benchmark import Verdict
from mangalib.benchmark.detection import METRICS, NAMES
from mangalib.domain import ROUTES, Intent
from mangalib.settings import BudgetSettings


def budgets_ms(settings: BudgetSettings, metric: str) -> Mapping[str, float]:
    """The budget of each intent in ms, for ``first_token_ms`` or ``total_ms``."""
    if metric == METRICS[0]:
        return {intent.value: route.first_token_budget_ms(settings) for intent, route in ROUTES.items()}
    return dict.fromkeys((intent.value for intent in Intent), settings.whole_answer_budget_ms)


def intent_latencies(samples: pd.DataFrame, intent: str, metric: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Measured latencies of an intent in ms, without failures and warm-up."""
    chosen = (samples["intent"] == intent) & samples["ok"].astype(bool) & ~samples["warmup"].astype(bool)
    return samples.loc[chosen, metric].to_numpy(dtype=np.float64)


def runs_over_time(samples: pd.DataFrame, intent: str, metric: str) -> pd.DataFrame:
    """One row per run: ``started_at, p50, p95`` of an intent, in ms."""
    chosen = (samples["intent"] == intent) & samples["ok"].astype(bool) & ~samples["warmup"].astype(bool)
    by_run = samples[chosen].groupby("started_at", observed=True)[metric]
    return by_run.quantile(np.array([0.5, 0.95])).unstack().set_axis(["p50", "p95"], axis=1).reset_index()


def verdict_by_intent(verdict: Verdict) -> pd.DataFrame:
    """One row per intent and metric: severity, when the change began, and the run compared with its baseline."""
    found = {(finding.intent, finding.metric): finding for finding in verdict.findings}
    rows = []
    for row in verdict.comparison.dropna(subset=["p50"]).to_dict("records"):
        finding = found.get((row["intent"], row["metric"]))
        since = f"{finding.since:%d %b %H:%M}" if finding and finding.since else ""
        rows.append(
            {
                "intent": row["intent"],
                "metric": row["metric"],
                "severity": NAMES[finding.severity] if finding else "",
                "since (UTC)": since,
                "p50, ms": round(row["p50"]),
                "p50 shift": f"{row['p50_shift_ms']:+.0f} ms, {row['p50_shift']:+.0%}",
                "p95, ms": round(row["p95"]),
                "p95 shift": f"{row['p95_shift_ms']:+.0f} ms, {row['p95_shift']:+.0%}",
                "p95 shift, 95 % interval": f"{row['p95_shift_low']:+.0%} to {row['p95_shift_high']:+.0%}",
                "slower than before": f"{row['probability_slower']:.0%}",
                "visible d": round(row["visible_d"], 2),
            }
        )
    return pd.DataFrame(rows)
