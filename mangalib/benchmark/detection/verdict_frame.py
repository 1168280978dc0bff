"""The verdict frame: the table of what a rule finds, one row per run, intent and metric."""

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
# The values of COLUMNS, in their order.
VerdictRow = tuple[object, ...]


def as_frame(rows: list[VerdictRow]) -> pd.DataFrame:
    """Rows as a table with ``COLUMNS``."""
    table = pd.DataFrame(rows, columns=COLUMNS)
    for name in ("started_at", "since"):
        table[name] = pd.to_datetime(table[name], utc=True)
    return table.astype({"severity": "int64", "direction": "int64"})
