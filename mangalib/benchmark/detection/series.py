"""From samples to series: each run's latencies of an intent in a few numbers that a detector can follow over time.

Latencies are right-skewed and their spread grows with their level, so everything is on the logarithmic scale: a shift
of 0.1 is a factor of 1.105 whatever the level, and shifts of different intents can be pooled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mangalib.errors import DataError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.intp]

METRICS = ("first_token_ms", "total_ms")
POOLED = "*"
TAIL_SHARE = 0.1
MIN_SAMPLES = 5
# Fewer answers have no tail: their slowest tenth is a single one.
MIN_TAIL_SAMPLES = 20

# What of a run's latencies is followed. LOCATION: mean of the logarithms. TAIL: how far the slowest tenth lies above
# it, which a shift of all requests leaves alone. P95: the logarithm of the 95th percentile.
LOCATION, TAIL, P95 = range(3)

NEEDED = {"run_id": "strings", "started_at": "UTC timestamps", "intent": "strings", "ok": "booleans"} | dict.fromkeys(
    METRICS, "numbers"
)


@dataclass(frozen=True)
class Series:
    """Runs in the order of time, by intent and metric.

    ``values`` has shape (runs, intents, metrics, 3): LOCATION, TAIL, P95; NaN where a run has fewer than
    ``MIN_SAMPLES`` answers of an intent, for TAIL fewer than ``MIN_TAIL_SAMPLES``. ``counts`` are answers, ``spreads`` the
    variances of their logarithms, both of shape (runs, intents, metrics); ``asked`` and ``failed`` count requests, of
    shape (runs, intents).
    """

    run_ids: list[str]
    times: pd.DatetimeIndex
    intents: list[str]
    values: Floats
    counts: Floats
    spreads: Floats
    asked: Floats
    failed: Floats

    @property
    def hours(self) -> Floats:
        """Hours since the epoch at which each run started."""
        return np.asarray(self.times.as_unit("ns").asi8 / 3.6e12, dtype=np.float64)


def checked(samples: pd.DataFrame) -> pd.DataFrame:
    """``samples`` with run ids and intents as categories, without requests that were discarded as warm-up.

    Raises ``DataError`` when a column that is needed is missing or of the wrong type.
    """
    for name, expected in NEEDED.items():
        if name not in samples:
            raise DataError(f"column {name}: missing; expected {expected}, beside {', '.join(samples.columns)}")
        kind = samples[name].dtype
        fits = {
            "strings": pd.api.types.is_string_dtype(kind) or isinstance(kind, pd.CategoricalDtype),
            "UTC timestamps": isinstance(kind, pd.DatetimeTZDtype),
            "booleans": pd.api.types.is_bool_dtype(kind),
            "numbers": pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind),
        }[expected]
        if not fits:
            raise DataError(f"column {name}: {kind}; expected {expected}")
    if "warmup" in samples:
        samples = samples[~samples["warmup"].to_numpy(dtype=bool)]
    words = {name: samples[name].astype("category").cat.remove_unused_categories() for name in ("run_id", "intent")}
    return samples.assign(**words)


def impossible(samples: pd.DataFrame) -> dict[str, str]:
    """Of samples that were :func:`checked`, runs with values that cannot be, and in words the first of each: a latency that
    is NaN, negative or zero, a run with two moments of start, a clock that went backwards within a run."""
    found: dict[str, str] = {}
    succeeded = samples["ok"].to_numpy(dtype=bool)
    for metric in METRICS:
        values = samples[metric].to_numpy(dtype=np.float64, na_value=np.nan)
        for at in np.flatnonzero(succeeded & ~((values > 0) & np.isfinite(values))):
            row = samples.iloc[at]
            found.setdefault(
                str(row["run_id"]), f"{metric} is {values[at]:g} for {row['intent']}; expected more than 0"
            )
    runs, starts = samples["run_id"].cat.codes.to_numpy(), samples["started_at"].dt.tz_convert(None).to_numpy()
    first = np.full(len(samples["run_id"].cat.categories), np.datetime64("NaT"), dtype=starts.dtype)
    first[runs[::-1]] = starts[::-1]
    for at in np.flatnonzero(first[runs] != starts):
        row = samples.iloc[at]
        problem = f"started_at is {first[runs[at]]} and {starts[at]}; expected one moment a run"
        found.setdefault(str(row["run_id"]), problem)
    if "at" in samples:
        early = samples["at"] < samples["started_at"]
        for run_id in samples.loc[early, "run_id"].unique():
            found.setdefault(str(run_id), "a request is earlier than its run's start: the clock went backwards")
    return found


def summarise(samples: pd.DataFrame) -> Series:
    """Samples in the store's columns, as series; discarded warm-up requests are left out.

    Raises
    ------
    DataError
        A column is missing or of the wrong type, or a value cannot be; names the run, the field and the value.
    """
    samples = checked(samples)
    for run_id, problem in impossible(samples).items():
        raise DataError(f"run {run_id}: {problem}")
    return _summarised(samples)


def _summarised(samples: pd.DataFrame) -> Series:
    # Several runs may start at the same moment; their ids then decide, so that every machine sees the same order.
    runs = samples[["run_id", "started_at"]].drop_duplicates("run_id")
    runs = runs.assign(run_id=runs["run_id"].astype(str)).sort_values(["started_at", "run_id"])
    run_of = _places(samples["run_id"], list(runs["run_id"]))
    intents = sorted(str(name) for name in samples["intent"].cat.categories)
    intent_of = _places(samples["intent"], intents)
    cell = run_of * len(intents) + intent_of
    shape = (len(runs), len(intents))
    succeeded = samples["ok"].to_numpy(dtype=bool)
    asked = np.bincount(cell, minlength=shape[0] * shape[1]).astype(np.float64)
    failed = np.bincount(cell[~succeeded], minlength=shape[0] * shape[1]).astype(np.float64)
    parts = [
        _by_cell(cell[succeeded], samples[metric].to_numpy(dtype=np.float64)[succeeded], asked.size)
        for metric in METRICS
    ]
    values, counts, spreads = (np.stack(arrays, axis=1) for arrays in zip(*parts, strict=True))
    return Series(
        run_ids=list(runs["run_id"]),
        times=pd.DatetimeIndex(runs["started_at"]),
        intents=intents,
        values=values.reshape(*shape, len(METRICS), 3),
        counts=counts.reshape(*shape, len(METRICS)),
        spreads=spreads.reshape(*shape, len(METRICS)),
        asked=asked.reshape(shape),
        failed=failed.reshape(shape),
    )


def _places(words: pd.Series, order: list[str]) -> npt.NDArray[np.intp]:
    """Where in ``order`` each of the words, a column of categories, stands."""
    of_category = pd.Index(order).get_indexer(pd.Index(words.cat.categories).astype(str))
    return of_category[words.cat.codes.to_numpy()]


def _by_cell(cell: npt.NDArray[Any], latencies: Floats, cells: int) -> tuple[Floats, Floats, Floats]:
    """Values (cells, 3), counts and spreads (cells,) of latencies that belong to cells; cells of one size at once."""
    order = np.lexsort((latencies, cell))
    logs, cell = np.log(latencies[order]), cell[order]
    counts = np.bincount(cell, minlength=cells)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    values, spreads = np.full((cells, 3), np.nan), np.full(cells, np.nan)
    for size in np.unique(counts[counts >= MIN_SAMPLES]):
        which = np.flatnonzero(counts == size)
        values[which], spreads[which] = summarise_sorted(logs[starts[which, None] + np.arange(size)])
    return values, counts.astype(np.float64), spreads


def summarise_sorted(logs: Floats) -> tuple[Floats, Floats]:
    """Values (..., 3) and spreads (...) of logarithms that are sorted along the last axis."""
    size = logs.shape[-1]
    location = logs.mean(axis=-1)
    tail = logs @ _weights_above(1 - TAIL_SHARE, size) - location
    if size < MIN_TAIL_SAMPLES:
        tail = np.full_like(location, np.nan)
    p95 = logs @ _weights_around(0.95, size)
    return np.stack([location, tail, p95], axis=-1), logs.var(axis=-1, ddof=1)


def _weights_above(share: float, size: int) -> Floats:
    """Weights of order statistics whose sum is the mean above a quantile: the observation on the border counts in part."""
    edges = np.clip(np.arange(size + 1) / size, share, 1.0)
    return np.diff(edges) / (1 - share)


def _weights_around(share: float, size: int) -> Floats:
    """Weights of Harrell & Davis (1982): a quantile as an average of order statistics, steadier than any single one."""
    from scipy.special import betainc

    edges = betainc((size + 1) * share, (size + 1) * (1 - share), np.arange(size + 1) / size)
    return np.asarray(np.diff(edges), dtype=np.float64)
