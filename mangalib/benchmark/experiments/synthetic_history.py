"""Synthetic history: seeded samples as months of runs would have left them, with chosen changes in them.

Each run's level varies around a daily cycle (and a weekly one, if wanted); latencies within a run are log-normal, gamma or
bimodal. The detector is evaluated on it, and a laptop's first run is compared with it.
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
from mangalib.settings import ModelSettings

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
    """Parameters of a history. ``samples`` are requests of an intent in a run; ``sigma`` is the standard deviation of a
    request's logarithm, ``run_to_run`` that of a run's level; ``daily`` and ``weekly`` are the amplitudes of the cycles, as
    shares; ``missing`` is the share of runs that did not take place."""

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
        """How many runs were due, the missing ones included."""
        return round(self.days * self.runs_per_day)

    @property
    def times_s(self) -> Floats:
        """When each of them was due, as seconds since the epoch: shape (runs,)."""
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


def simulate(history: SyntheticHistory, changes: Sequence[Change], rng: np.random.Generator) -> tuple[Floats, Bools]:
    """Latencies in ms, of shape (runs, intents, metrics, samples), and which requests failed, (runs, intents, samples)."""
    intents = list(history.levels_ms)
    shape = (history.runs, len(intents), len(METRICS), history.samples)
    level = np.log(np.array([history.levels_ms[intent] for intent in intents]))[None, :, :, None]
    cycle = _cycle(history, history.times_s / 3600)
    run_level = rng.normal(0.0, history.run_to_run, shape[:3])[..., None]
    # A request whose first token is late tends to be slow as a whole.
    noise = rng.normal(size=shape)
    noise[:, :, 1] = 0.5 * noise[:, :, 0] + math.sqrt(0.75) * noise[:, :, 1]
    logs = level + np.log(cycle)[:, None, None, None] + run_level + _request_deviation(noise, history, rng)
    failed = rng.random((history.runs, len(intents), history.samples)) < history.error_rate
    for change in changes:
        _apply(change, logs, failed, intents, rng)
    return np.exp(logs), failed


def _cycle(history: SyntheticHistory, hours: Floats) -> Floats:
    """The daily and weekly cycle of the level, as factors."""
    daily = 1 + history.daily * np.cos((hours - _PEAK_HOUR_UTC) / 24 * 2 * math.pi)
    weekly = 1 + history.weekly * np.cos(hours / (7 * 24) * 2 * math.pi)
    return np.asarray(daily * weekly, dtype=np.float64)


def _request_deviation(noise: Floats, history: SyntheticHistory, rng: np.random.Generator) -> Floats:
    match history.shape:
        case "lognormal":
            return history.sigma * noise
        case "gamma":
            k = 1 / history.sigma**2
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


def series(history: SyntheticHistory, changes: Sequence[Change], rng: np.random.Generator) -> Series:
    """A simulated history as series, without a table of single samples: fast enough for simulations of months."""
    latencies, failed = simulate(history, changes, rng)
    took_place = rng.random(history.runs) >= history.missing
    latencies, failed = latencies[took_place], failed[took_place]
    logs = np.log(latencies)
    if failed.any():
        # A failed request has no latency; the few runs that have some are summarised one by one.
        values, variances = summarise_sorted(np.sort(logs, axis=-1))
        for run, intent in np.argwhere(failed.any(axis=-1)):
            kept = np.sort(logs[run, intent][:, ~failed[run, intent]], axis=-1)
            values[run, intent], variances[run, intent] = (
                summarise_sorted(kept) if kept.shape[-1] >= 5 else (np.nan, np.nan)
            )
    else:
        values, variances = summarise_sorted(np.sort(logs, axis=-1))
    succeeded = (~failed).sum(axis=-1).astype(np.float64)
    times = pd.DatetimeIndex(pd.to_datetime(history.times_s[took_place], unit="s", utc=True))
    return Series(
        run_ids=[_run_id(index) for index in np.flatnonzero(took_place).tolist()],
        times=times,
        intents=list(history.levels_ms),
        values=values,
        counts=np.repeat(succeeded[..., None], len(METRICS), axis=-1),
        variances=variances,
        requests=np.full(failed.shape[:2], float(history.samples)),
        failed=failed.sum(axis=-1).astype(np.float64),
    )


def samples(
    history: SyntheticHistory, changes: Sequence[Change], rng: np.random.Generator, settings: ModelSettings
) -> pd.DataFrame:
    """A simulated history as samples in the store's columns, the oldest run first."""
    latencies, failed = simulate(history, changes, rng)
    took_place = np.flatnonzero(rng.random(history.runs) >= history.missing)
    latencies, failed = latencies[took_place], failed[took_place]
    intents = list(history.levels_ms)
    models = [ROUTES[Intent(intent)].model_id(settings) for intent in intents]
    run, intent, sequence = (axis.ravel() for axis in np.indices(failed.shape))
    started = pd.to_datetime(history.times_s[took_place], unit="s", utc=True).as_unit("us")[run]
    is_failed = failed.ravel()
    first, total = (np.where(is_failed, np.nan, latencies[:, :, metric].ravel()) for metric in range(len(METRICS)))
    count = len(is_failed)
    return pd.DataFrame(
        {
            "run_id": _categorical(run, [_run_id(index) for index in took_place.tolist()]),
            "started_at": started,
            "at": started + pd.to_timedelta(sequence * len(intents) + intent, unit="s"),
            "sequence": sequence.astype(np.int32),
            "intent": _categorical(intent, intents),
            "model_id": pd.Categorical([models[index] for index in intent]),
            "source": pd.Categorical(["model"]).repeat(count),
            "origin": pd.Categorical(["synthetic"]).repeat(count),
            "first_token_ms": first,
            "total_ms": np.fmax(first, total),
            "tokens": np.where(is_failed, 0, 100).astype(np.int32),
            "ok": ~is_failed,
            "error": pd.Series(is_failed).map({True: "model_error", False: None}),
            "warmup": np.zeros(count, dtype=bool),
        }
    )


def before(measured: pd.DataFrame, history: SyntheticHistory, rng: np.random.Generator) -> pd.DataFrame:
    """A simulated history before one measured run: its own latencies, resampled for every run of the days before it, with
    each run's level varying around the daily cycle as ``history`` says.

    It lets a service that was measured once be compared with "the last seven days"; the history contains nothing that the
    one run did not show.
    """
    started = measured["started_at"].iloc[0]
    template = measured.loc[measured["ok"] & ~measured["warmup"]].sort_values(["intent", "sequence"])
    sizes = template.groupby("intent", sort=True, observed=True).size().to_numpy()
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    step = pd.Timedelta(seconds=_DAY_S / history.runs_per_day)
    times = pd.DatetimeIndex([started - step * back for back in range(history.runs, 0, -1)])
    hours = (times.as_unit("ns").asi8 - started.value) / 3.6e12 + started.timestamp() / 3600
    cycle = _cycle(history, hours) / _cycle(history, np.array([started.timestamp() / 3600]))
    drawn = first[None].repeat(sizes, axis=1) + np.floor(
        rng.random((history.runs, len(template))) * sizes.repeat(sizes)
    ).astype(np.intp)
    level = np.exp(rng.normal(0, history.run_to_run, (history.runs, len(sizes)))) * cycle[:, None]
    factor = level.repeat(sizes, axis=1).ravel()
    resampled = template.iloc[drawn.ravel()].reset_index(drop=True)
    run = np.arange(history.runs).repeat(len(template))
    sequence = np.tile(np.concatenate([np.arange(size) for size in sizes]), history.runs)
    started_at = times[run]
    changed = {
        "run_id": _categorical(run, [_run_id(index) for index in range(history.runs)]),
        "started_at": started_at,
        "at": started_at + pd.to_timedelta(sequence, unit="s"),
        "sequence": sequence.astype(np.int32),
        "intent": template["intent"].to_numpy()[np.tile(np.arange(len(template)), history.runs)],
        **{metric: resampled[metric].to_numpy() * factor for metric in METRICS},
    }
    return resampled.assign(**changed)


def _categorical(codes: Ints, categories: list[str]) -> Any:
    return pd.Categorical(codes).rename_categories(dict(enumerate(categories)))


def _run_id(index: int) -> str:
    return f"past-{index:06d}"
