"""The baseline: level, daily and weekly cycle and run-to-run variation of many series, estimated from healthy runs.

A Bayesian linear regression (Bishop, 2006, section 3.3) on harmonics of the day and on the days of the week. Its priors keep
the cycles near zero until the data say otherwise, so that it is usable after a few hours and exact after a week, and the
variance of its prediction includes what is not yet known. Sums are updated run by run: nothing is fitted twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mangalib.benchmark.detection.series import Bools, Floats, Ints

_HARMONICS = 3
_DAYS = 7
FEATURES = 1 + 2 * _HARMONICS + 2 + _DAYS
# Ratio of noise to prior variance: a run's level varies by about 8 %, the daily cycle by 15, 7 and 5 % in its three
# harmonics, the weekly one by 8 %, a day of the week beyond it by 4 %; the level itself is free.
_RIDGE = np.diag([1e-6] + [0.3, 0.3, 1.3, 1.3, 2.5, 2.5] + [1.0, 1.0] + [4.0] * _DAYS)
# How many runs the prior standard deviation counts for.
_PRIOR_RUNS = 10.0
_CLIP_SD = 3.0


def features(hours: Floats) -> Floats:
    """Design matrix of the regression for times in hours since the epoch: shape (times, FEATURES)."""
    cycles_a_day = np.append(np.arange(1.0, _HARMONICS + 1), 1 / _DAYS)
    angle = 2 * np.pi * hours[:, None] / 24 * cycles_a_day
    # Days of the week as hats: each is 1 at its noon (UTC) and falls to 0 at its neighbours' noon.
    apart = np.abs((hours[:, None] / 24 - 0.5 - np.arange(_DAYS)) % _DAYS)
    hats = np.clip(1 - np.minimum(apart, _DAYS - apart), 0, None)
    waves = np.stack([np.cos(angle), np.sin(angle)], axis=-1).reshape(len(hours), -1)
    return np.concatenate([np.ones((len(hours), 1)), waves, hats], axis=1)


@dataclass(frozen=True)
class Fit:
    """A fitted baseline: ``weights`` (series, channels, FEATURES); ``sd`` of one run around its expectation (series,
    channels); ``posterior_variance`` (series, FEATURES, FEATURES), the covariance of the weights in units of one run's
    variance; ``runs`` (series,) that it was fitted to."""

    weights: Floats
    sd: Floats
    posterior_variance: Floats
    runs: Floats

    def expected(self, design: Floats) -> Floats:
        """Expectation at rows of :func:`features`: shape (times, series, channels)."""
        return np.asarray(np.einsum("tp,scp->tsc", design, self.weights))

    def uncertainty(self, features: Floats) -> Floats:
        """Variance of the expectation at one row of :func:`features`, in units of one run's variance: shape (series,)."""
        return np.asarray(np.einsum("p,spq,q->s", features, self.posterior_variance, features))


class Baseline:
    """Healthy runs of the last ``window_h`` hours for each of ``series``, with ``channels`` values each.

    The window of a series ends with its last healthy run: while none comes, nothing is forgotten.
    """

    def __init__(self, hours: Floats, series: int, channels: int, *, window_h: float) -> None:
        self._hours = hours
        self._design = features(hours)
        self._window_h = window_h
        self._values = np.zeros((len(hours), series, channels))
        self._admitted = np.zeros((len(hours), series), dtype=bool)
        self._xx = np.zeros((series, FEATURES, FEATURES))
        self._xy = np.zeros((series, channels, FEATURES))
        self._yy = np.zeros((series, channels))
        self._oldest = np.zeros(series, dtype=np.intp)
        self.runs = np.zeros(series)

    def add(self, run: int, values: Floats, healthy: Bools, fit: Fit) -> None:
        """Admit a run's ``values`` (series, channels) where ``healthy``; outliers are clipped to three standard deviations."""
        expected = fit.expected(self._design[run : run + 1])[0]
        known = (fit.runs >= _PRIOR_RUNS)[:, None]
        reach = _CLIP_SD * fit.sd
        clipped = np.where(known, np.clip(values, expected - reach, expected + reach), values)
        self._values[run] = np.where(healthy[:, None], clipped, 0.0)
        self._admitted[run] = healthy
        self._update(np.full(len(healthy), run), healthy, +1.0)
        while True:
            expired = healthy & (self._hours[self._oldest] < self._hours[run] - self._window_h)
            if not expired.any():
                return
            held = expired & self._admitted[self._oldest, np.arange(len(healthy))]
            self._update(self._oldest, held, -1.0)
            self._oldest[expired] += 1

    def _update(self, runs: Ints, which: Bools, sign: float) -> None:
        weight = np.where(which, sign, 0.0)
        design = self._design[runs]
        values = self._values[runs, np.arange(len(runs))]
        weighted = design * weight[:, None]
        self._xx += np.einsum("sp,sq->spq", weighted, design)
        self._xy += np.einsum("sp,sc->scp", weighted, values)
        self._yy += weight[:, None] * values**2
        self.runs += weight

    def fit(self, prior_sd: Floats) -> Fit:
        """The regression as of now; ``prior_sd`` (series, channels) is the standard deviation assumed before any run."""
        posterior_variance = np.linalg.inv(self._xx + _RIDGE)
        weights = np.einsum("scp,spq->scq", self._xy, posterior_variance)
        penalty = np.einsum("scp,pq,scq->sc", weights, _RIDGE, weights)
        squares = self._yy - np.einsum("scp,scp->sc", weights, self._xy) - penalty
        used = np.einsum("spq,sqp->s", posterior_variance, self._xx)
        degrees = np.maximum(self.runs - used, 0.0)[:, None]
        variance = (np.maximum(squares, 0.0) + _PRIOR_RUNS * prior_sd**2) / (degrees + _PRIOR_RUNS)
        return Fit(weights, np.sqrt(variance), np.asarray(posterior_variance, dtype=np.float64), self.runs.copy())
