"""A made-up past: seeded samples as months of runs would have left them, with whatever change is wanted in them.

Each run's level wanders around a cycle of the day (and of the week, if wanted); latencies within a run are log-normal,
gamma or bimodal. This is what the detector is judged on, and what gives a laptop's first run something to be compared with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.special import gammaincinv, ndtr

from mangalib.benchmark.detection.series import METRICS, Bools, Floats, Ints, Series, summarise_sorted
from mangalib.domain import ROUTES, Intent
from mangalib.settings import Settings

# Medians in ms of the first token and of the whole answer, as on the local stack.
TYPICAL_MS = {
    "comparison": (960.0, 2150.0),
    "complaint": (400.0, 1300.0),
    "faq": (290.0, 900.0),
    "greeting": (285.0, 600.0),
    "order_status": (330.0, 900.0),
    "other": (290.0, 800.0),
    "product_search": (960.0, 2000.0),
    "recommendation": (960.0, 2300.0),
}
_DAY_S = 86_400.0
_PEAK_HOUR_UTC = 12  # 21:00 in Japan


@dataclass(frozen=True)
class SyntheticHistory:
    """How the past was: ``sigma`` is the spread of a request's logarithm, ``wander`` that of a run's level; ``daily``
    and ``weekly`` are how far the level swings; ``missing`` is the share of runs that were never made."""

    days: float = 7
    runs_per_day: int = 96
    samples: int = 45
    sigma: float = 0.4
    run_to_run: float = 0.05
    daily: float = 0.10
    weekly: float = 0.0
    missing: float = 0.0
    error_rate: float = 0.0
    shape: Literal["lognormal", "gamma", "bimodal"] = "lognormal"
    levels_ms: dict[str, tuple[float, float]] = field(default_factory=lambda: TYPICAL_MS)
    end: datetime = datetime(2026, 11, 2, tzinfo=UTC)

    @property
    def runs(self) -> int:
        """How many runs were due."""
        return round(self.days * self.runs_per_day)

    @property
    def times_s(self) -> Floats:
        """When each of them was due, as seconds since the epoch."""
        step_s = _DAY_S / self.runs_per_day
        return np.asarray(self.end.timestamp() - step_s * np.arange(self.runs, 0, -1), dtype=np.float64)


@dataclass(frozen=True)
class Change:
    """From run ``first`` to before run ``last`` (indices of the runs that were due), for some intents and metrics or for
    all: latencies times ``factor``, ``slow_share`` of them times ``slow_factor``, ``error_rate`` of requests failing."""

    first: int
    last: int | None = None
    factor: float = 1.0
    slow_share: float = 0.0
    slow_factor: float = 3.0
    error_rate: float | None = None
    intents: tuple[str, ...] | None = None
    metrics: tuple[str, ...] = METRICS


def simulate(past: SyntheticHistory, changes: Sequence[Change], rng: np.random.Generator) -> tuple[Floats, Bools]:
    """Latencies in ms of shape (runs, intents, metrics, samples), and which requests failed (runs, intents, samples)."""
    intents = list(past.levels_ms)
    shape = (past.runs, len(intents), len(METRICS), past.samples)
    level = np.log(np.array([past.levels_ms[intent] for intent in intents]))[None, :, :, None]
    cycle = _cycle(past, past.times_s / 3600)
    run_level = rng.normal(0.0, past.run_to_run, shape[:3])[..., None]
    # A request that is slow to its first token tends to be slow in all.
    noise = rng.normal(size=shape)
    noise[:, :, 1] = 0.5 * noise[:, :, 0] + math.sqrt(0.75) * noise[:, :, 1]
    logs = level + np.log(cycle)[:, None, None, None] + run_level + _spread(noise, past, rng)
    failed = rng.random((past.runs, len(intents), past.samples)) < past.error_rate
    for change in changes:
        _apply(change, logs, failed, intents, rng)
    return np.exp(logs), failed


def _cycle(past: SyntheticHistory, hours: Floats) -> Floats:
    """How the level swings over the day and the week, as factors."""
    daily = 1 + past.daily * np.cos((hours - _PEAK_HOUR_UTC) / 24 * 2 * math.pi)
    weekly = 1 + past.weekly * np.cos(hours / (7 * 24) * 2 * math.pi)
    return np.asarray(daily * weekly, dtype=np.float64)


def _spread(noise: Floats, past: SyntheticHistory, rng: np.random.Generator) -> Floats:
    match past.shape:
        case "lognormal":
            return past.sigma * noise
        case "gamma":
            k = 1 / past.sigma**2
            return np.asarray(np.log(gammaincinv(k, ndtr(noise)) / gammaincinv(k, 0.5)), dtype=np.float64)
        case "bimodal":
            slow_mode = rng.random(noise.shape) < 0.2
            return 0.25 * noise + math.log(3) * slow_mode


def _apply(
    change: Change,
    logs: Floats,
    failed: Bools,
    intents: list[str],
    rng: np.random.Generator,
) -> None:
    span = slice(change.first, change.last)
    for i, intent in enumerate(intents):
        if change.intents is not None and intent not in change.intents:
            continue
        for m, metric in enumerate(METRICS):
            if metric in change.metrics:
                part = logs[span, i, m]
                part += math.log(change.factor)
                part += math.log(change.slow_factor) * (rng.random(part.shape) < change.slow_share)
        if change.error_rate is not None:
            failed[span, i] = rng.random(failed[span, i].shape) < change.error_rate


def series(past: SyntheticHistory, changes: Sequence[Change], rng: np.random.Generator) -> Series:
    """The same as series, without going through single samples: for simulations of months."""
    latencies, failed = simulate(past, changes, rng)
    made = rng.random(past.runs) >= past.missing
    latencies, failed = latencies[made], failed[made]
    logs = np.log(latencies)
    if failed.any():
        # A failed request has no latency; the few runs that have some are summarised one by one.
        values, spreads = summarise_sorted(np.sort(logs, axis=-1))
        for run, intent in np.argwhere(failed.any(axis=-1)):
            kept = np.sort(logs[run, intent][:, ~failed[run, intent]], axis=-1)
            values[run, intent], spreads[run, intent] = (
                summarise_sorted(kept) if kept.shape[-1] >= 5 else (np.nan, np.nan)
            )
    else:
        values, spreads = summarise_sorted(np.sort(logs, axis=-1))
    succeeded = (~failed).sum(axis=-1).astype(np.float64)
    times = pd.DatetimeIndex(pd.to_datetime(past.times_s[made], unit="s", utc=True))
    return Series(
        run_ids=[_run_id(index) for index in np.flatnonzero(made).tolist()],
        times=times,
        intents=list(past.levels_ms),
        values=values,
        counts=np.repeat(succeeded[..., None], len(METRICS), axis=-1),
        spreads=spreads,
        asked=np.full(failed.shape[:2], float(past.samples)),
        failed=failed.sum(axis=-1).astype(np.float64),
    )


def samples(
    past: SyntheticHistory, changes: Sequence[Change], rng: np.random.Generator, settings: Settings
) -> pd.DataFrame:
    """The same as samples in the store's columns, the oldest run first."""
    latencies, failed = simulate(past, changes, rng)
    made = np.flatnonzero(rng.random(past.runs) >= past.missing)
    latencies, failed = latencies[made], failed[made]
    intents = list(past.levels_ms)
    models = [ROUTES[Intent(intent)].model_id(settings) for intent in intents]
    run, intent, sequence = (axis.ravel() for axis in np.indices(failed.shape))
    started = pd.to_datetime(past.times_s[made], unit="s", utc=True).as_unit("us")[run]
    lost = failed.ravel()
    first, total = (np.where(lost, np.nan, latencies[:, :, metric].ravel()) for metric in range(len(METRICS)))
    count = len(lost)
    return pd.DataFrame(
        {
            "run_id": _of_category(run, [_run_id(index) for index in made.tolist()]),
            "started_at": started,
            "at": started + pd.to_timedelta(sequence * len(intents) + intent, unit="s"),
            "sequence": sequence.astype(np.int32),
            "intent": _of_category(intent, intents),
            "model_id": pd.Categorical([models[index] for index in intent]),
            "source": pd.Categorical(["model"]).repeat(count),
            "origin": pd.Categorical(["synthetic"]).repeat(count),
            "first_token_ms": first,
            "total_ms": np.fmax(first, total),
            "tokens": np.where(lost, 0, 100).astype(np.int32),
            "ok": ~lost,
            "error": pd.Series(lost).map({True: "model_error", False: None}),
            "warmup": np.zeros(count, dtype=bool),
        }
    )


def before(measured: pd.DataFrame, past: SyntheticHistory, rng: np.random.Generator) -> pd.DataFrame:
    """A past for one run that was really measured: its own latencies, drawn again for every run of the days before it, each
    run's level wandering around the cycle of the day. ``past`` says how many runs, and how they wander.

    So a service that was measured once can be compared with "the last seven days"; what that past cannot show is anything
    that the one run did not.
    """
    started = measured["started_at"].iloc[0]
    template = measured.loc[measured["ok"] & ~measured["warmup"]].sort_values(["intent", "sequence"])
    sizes = template.groupby("intent", sort=True, observed=True).size().to_numpy()
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    step = pd.Timedelta(seconds=_DAY_S / past.runs_per_day)
    times = pd.DatetimeIndex([started - step * back for back in range(past.runs, 0, -1)])
    hours = (times.as_unit("ns").asi8 - started.value) / 3.6e12 + started.timestamp() / 3600
    cycle = _cycle(past, hours) / _cycle(past, np.array([started.timestamp() / 3600]))
    drawn = first[None].repeat(sizes, axis=1) + np.floor(
        rng.random((past.runs, len(template))) * sizes.repeat(sizes)
    ).astype(np.intp)
    level = np.exp(rng.normal(0, past.run_to_run, (past.runs, len(sizes)))) * cycle[:, None]
    factor = level.repeat(sizes, axis=1).ravel()
    rows = template.iloc[drawn.ravel()].reset_index(drop=True)
    run = np.arange(past.runs).repeat(len(template))
    sequence = np.tile(np.concatenate([np.arange(size) for size in sizes]), past.runs)
    begun = times[run]
    changed = {
        "run_id": _of_category(run, [_run_id(index) for index in range(past.runs)]),
        "started_at": begun,
        "at": begun + pd.to_timedelta(sequence, unit="s"),
        "sequence": sequence.astype(np.int32),
        "intent": template["intent"].to_numpy()[np.tile(np.arange(len(template)), past.runs)],
        **{metric: rows[metric].to_numpy() * factor for metric in METRICS},
    }
    return rows.assign(**changed)


def _of_category(codes: Ints, categories: list[str]) -> Any:
    return pd.Categorical(codes).rename_categories(dict(enumerate(categories)))


def _run_id(index: int) -> str:
    return f"past-{index:06d}"
