"""Rows: the table in which a rule says what it finds, one row per run, intent and metric."""

from __future__ import annotations

import pandas as pd

ERROR_RATE = "error_rate"
COLUMNS = [
    "run_id",
    "started_at",
    "intent",
    "metric",
    "severity",
    "since",
    "shift",
    "shift_low",
    "shift_high",
    "reason",
    "direction",
]
Row = tuple[object, ...]


def as_frame(rows: list[Row]) -> pd.DataFrame:
    """Rows, each with the values of ``COLUMNS``, as a table."""
    table = pd.DataFrame(rows, columns=COLUMNS)
    for name in ("started_at", "since"):
        table[name] = pd.to_datetime(table[name], utc=True)
    return table.astype({"severity": "int64", "direction": "int64"})
