"""From samples to series: a few numbers that summarise each run's latencies of an intent and can be followed over time.

Latencies are right-skewed and vary the more, the higher their level, so everything is on the logarithmic scale: a shift
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

# The values that summarise the latencies of a run. LOCATION: mean of the logarithms. TAIL: how far the mean of the slowest tenth
# lies above it, which a shift of all requests leaves unchanged. P95: the logarithm of the 95th percentile.
LOCATION, TAIL, P95 = range(3)

NEEDED = {"run_id": "strings", "started_at": "UTC timestamps", "intent": "strings", "ok": "booleans"} | dict.fromkeys(
    METRICS, "numbers"
)


@dataclass(frozen=True)
class Series:
    """Runs in chronological order, by intent and metric.

    ``values`` has shape (runs, intents, metrics, 3): LOCATION, TAIL, P95; NaN where a run has fewer than
    ``MIN_SAMPLES`` answers of an intent, for TAIL fewer than ``MIN_TAIL_SAMPLES``. ``counts`` are answers, ``variances`` those
    of their logarithms, both of shape (runs, intents, metrics); ``requests`` counts all of them and ``failed`` those that
    failed, both of shape (runs, intents).
    """

    run_ids: list[str]
    times: pd.DatetimeIndex
    intents: list[str]
    values: Floats
    counts: Floats
    variances: Floats
    requests: Floats
    failed: Floats

    @property
    def hours(self) -> Floats:
        """Hours since the epoch at which each run started: shape (runs,)."""
        return np.asarray(self.times.as_unit("ns").asi8 / 3.6e12, dtype=np.float64)


def checked(samples: pd.DataFrame) -> pd.DataFrame:
    """``samples`` with run ids and intents as categories, without discarded warm-up requests.

    Raises ``DataError`` when a needed column is missing or of the wrong type.
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
    categories = {
        name: samples[name].astype("category").cat.remove_unused_categories() for name in ("run_id", "intent")
    }
    return samples.assign(**categories)


def invalid_runs(samples: pd.DataFrame) -> dict[str, str]:
    """Runs of :func:`checked` samples that have invalid values, each with its first problem in words: a latency that
    is NaN, negative or zero, a run with two start times, a clock that went backwards within a run."""
    problems: dict[str, str] = {}
    succeeded = samples["ok"].to_numpy(dtype=bool)
    for metric in METRICS:
        values = samples[metric].to_numpy(dtype=np.float64, na_value=np.nan)
        for at in np.flatnonzero(succeeded & ~((values > 0) & np.isfinite(values))):
            row = samples.iloc[at]
            problems.setdefault(
                str(row["run_id"]), f"{metric} is {values[at]:g} for {row['intent']}; expected more than 0"
            )
    runs, starts = samples["run_id"].cat.codes.to_numpy(), samples["started_at"].dt.tz_convert(None).to_numpy()
    first = np.full(len(samples["run_id"].cat.categories), np.datetime64("NaT"), dtype=starts.dtype)
    first[runs[::-1]] = starts[::-1]
    for at in np.flatnonzero(first[runs] != starts):
        row = samples.iloc[at]
        problem = f"started_at is {first[runs[at]]} and {starts[at]}; expected one moment a run"
        problems.setdefault(str(row["run_id"]), problem)
    if "at" in samples:
        early = samples["at"] < samples["started_at"]
        for run_id in samples.loc[early, "run_id"].unique():
            problems.setdefault(str(run_id), "a request is earlier than its run's start: the clock went backwards")
    return problems


def summarise(samples: pd.DataFrame) -> Series:
    """Samples in the store's columns, as series; discarded warm-up requests are left out.

    Raises
    ------
    DataError
        A column is missing or of the wrong type, or a value is invalid; names the run, the field and the value.
    """
    samples = checked(samples)
    for run_id, problem in invalid_runs(samples).items():
        raise DataError(f"run {run_id}: {problem}")
    return _summarised(samples)


def _summarised(samples: pd.DataFrame) -> Series:
    # Runs that start at the same moment are ordered by their ids, so that every machine sees the same order.
    runs = samples[["run_id", "started_at"]].drop_duplicates("run_id")
    runs = runs.assign(run_id=runs["run_id"].astype(str)).sort_values(["started_at", "run_id"])
    run_of = _positions(samples["run_id"], list(runs["run_id"]))
    intents = sorted(str(name) for name in samples["intent"].cat.categories)
    intent_of = _positions(samples["intent"], intents)
    cell = run_of * len(intents) + intent_of
    shape = (len(runs), len(intents))
    succeeded = samples["ok"].to_numpy(dtype=bool)
    requests = np.bincount(cell, minlength=shape[0] * shape[1]).astype(np.float64)
    failed = np.bincount(cell[~succeeded], minlength=shape[0] * shape[1]).astype(np.float64)
    parts = [
        _by_cell(cell[succeeded], samples[metric].to_numpy(dtype=np.float64)[succeeded], requests.size)
        for metric in METRICS
    ]
    values, counts, variances = (np.stack(arrays, axis=1) for arrays in zip(*parts, strict=True))
    return Series(
        run_ids=list(runs["run_id"]),
        times=pd.DatetimeIndex(runs["started_at"]),
        intents=intents,
        values=values.reshape(*shape, len(METRICS), 3),
        counts=counts.reshape(*shape, len(METRICS)),
        variances=variances.reshape(*shape, len(METRICS)),
        requests=requests.reshape(shape),
        failed=failed.reshape(shape),
    )


def _positions(column: pd.Series, order: list[str]) -> Ints:
    """Position in ``order`` of each value of a categorical column."""
    of_category = pd.Index(order).get_indexer(pd.Index(column.cat.categories).astype(str))
    return of_category[column.cat.codes.to_numpy()]


def _by_cell(cell: npt.NDArray[Any], latencies: Floats, cells: int) -> tuple[Floats, Floats, Floats]:
    """Values (cells, 3), counts and variances (cells,) of latencies by their cell; cells of one size are computed at once."""
    order = np.lexsort((latencies, cell))
    logs, cell = np.log(latencies[order]), cell[order]
    counts = np.bincount(cell, minlength=cells)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    values, variances = np.full((cells, 3), np.nan), np.full(cells, np.nan)
    for size in np.unique(counts[counts >= MIN_SAMPLES]):
        which = np.flatnonzero(counts == size)
        values[which], variances[which] = summarise_sorted(logs[starts[which, None] + np.arange(size)])
    return values, counts.astype(np.float64), variances


def summarise_sorted(logs: Floats) -> tuple[Floats, Floats]:
    """Values (..., 3) and variances (...) of logarithms that are sorted along the last axis."""
    size = logs.shape[-1]
    location = logs.mean(axis=-1)
    tail = logs @ _weights_above(1 - TAIL_SHARE, size) - location
    if size < MIN_TAIL_SAMPLES:
        tail = np.full_like(location, np.nan)
    p95 = logs @ _weights_around(0.95, size)
    return np.stack([location, tail, p95], axis=-1), logs.var(axis=-1, ddof=1)


def _weights_above(share: float, size: int) -> Floats:
    """Weights of order statistics that give the mean above a quantile: the observation on the border counts in part."""
    edges = np.clip(np.arange(size + 1) / size, share, 1.0)
    return np.diff(edges) / (1 - share)


def _weights_around(share: float, size: int) -> Floats:
    """Weights of Harrell & Davis (1982): a quantile as a weighted mean of order statistics, which varies less than any
    single one."""
    from scipy.special import betainc

    edges = betainc((size + 1) * share, (size + 1) * (1 - share), np.arange(size + 1) / size)
    return np.asarray(np.diff(edges), dtype=np.float64)
