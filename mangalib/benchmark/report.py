"""The report on a run: a table of percentiles by intent, with their intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mangalib.benchmark.detection.series import METRICS
from mangalib.benchmark.statistics import proportion_interval, quantile_interval

_MIN_ANSWERS = 5


def percentiles_by_intent(samples: pd.DataFrame) -> pd.DataFrame:
    """One row per intent and metric, in ms: ``answers, failed, failed_share, p50, p95, p99`` and the ends of their 95 %
    intervals (``p50_low`` and so on); missing where there are fewer than five answers. Warm-up requests are excluded."""
    rows = []
    for intent, part in samples[~samples["warmup"].astype(bool)].groupby("intent", observed=True, sort=True):
        failed = int((~part["ok"].astype(bool)).sum())
        share = proportion_interval(failed, len(part))
        for metric in METRICS:
            values = part.loc[part["ok"].astype(bool), metric].to_numpy(dtype=np.float64)
            row = {
                "intent": intent,
                "metric": metric,
                "answers": len(values),
                "failed": failed,
                "failed_share": share.value,
            }
            for name, quantile in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
                enough = len(values) >= _MIN_ANSWERS
                estimate = quantile_interval(values, quantile) if enough else (np.nan, np.nan, np.nan)
                row |= dict(zip((name, f"{name}_low", f"{name}_high"), estimate, strict=True))
            rows.append(row)
    return pd.DataFrame(rows)
