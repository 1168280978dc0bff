"""Statistics of latencies: pure functions from arrays to small results, each with its source.

Intervals are two-sided at ``level``; samples are one-dimensional unless stated otherwise.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import optimize
from scipy.special import betainc, betaincinv, ndtr, ndtri, owens_t

Floats = npt.NDArray[np.float64]


class Estimate(NamedTuple):
    """A point estimate with its confidence interval."""

    value: float
    low: float
    high: float


def quantile(samples: Floats, share: float | Floats) -> Floats:
    """Quantile of positive samples along the last axis, which must be sorted; extrapolated beyond the largest one.

    Linear between order statistics at ``share (n + 1)``; above the largest, the tail is exponential on the logarithmic
    scale, with the mean of the ``n / 10`` largest spacings as its scale (Hutson, 2002, who takes the last one only).
    ``share`` is one number or one for each row; the result has the shape of ``samples`` without the last axis.
    """
    logs = np.log(samples)
    n = logs.shape[-1]
    at = np.clip(np.asarray(share, dtype=np.float64) * (n + 1), 1, n + 1 - 1e-12)
    below = np.floor(at).astype(np.intp)
    between = np.take_along_axis(logs, np.broadcast_to(below - 1, logs.shape[:-1])[..., None], -1)[..., 0]
    above = np.take_along_axis(logs, np.broadcast_to(np.minimum(below, n - 1), logs.shape[:-1])[..., None], -1)[..., 0]
    top = max(2, round(n / 10))
    # Spacings of exponential variables have means of 1, 1/2, 1/3 ... from the top (Renyi, 1953): weighted by these, all
    # estimate the same scale.
    scale = (logs[..., n - top :].mean(axis=-1) - logs[..., n - top - 1]) if n > top else logs[..., -1] * 0
    beyond = logs[..., -1] - scale * np.log(np.minimum((n + 1) - at, 1.0))
    return np.asarray(np.exp(np.where(at >= n, beyond, between + (at - below) * (above - between))))


def quantile_interval(samples: Floats, share: float, *, level: float = 0.95) -> Estimate:
    """Quantile with the exact interval of order statistics, interpolated (Hutson, 1999).

    The number of samples below the true quantile is binomial for every distribution; fractional order statistics turn
    that into an interval of exactly ``level``. Where its upper end lies beyond the largest sample (p95 of fewer than about
    70), the tail is extrapolated as in :func:`quantile`, and the interval is no longer distribution-free.
    """
    ordered = np.sort(samples)
    low, high = quantile_bounds(len(ordered), share, level=level)
    return Estimate(float(quantile(ordered, share)), float(quantile(ordered, low)), float(quantile(ordered, high)))


@cache
def quantile_bounds(n: int, share: float, *, level: float = 0.95) -> tuple[float, float]:
    """The shares ``u`` at which the sample quantiles bound the true one: ``P(Beta((n+1)u, (n+1)(1-u)) <= share)`` is
    ``(1 - level) / 2`` on either side (Hutson, 1999)."""

    def solve(probability: float) -> float:
        def missed(u: float) -> float:
            return float(betainc((n + 1) * u, (n + 1) * (1 - u), share)) - probability

        return float(optimize.brentq(missed, 1e-9, 1 - 1e-12))

    return solve((1 + level) / 2), solve((1 - level) / 2)


def ratio_interval(now: Estimate, before: Estimate) -> Estimate:
    """Ratio of two positive, independent estimates from their own intervals, on the logarithmic scale: the method of
    variance estimates recovery (Zou & Donner, 2008)."""
    (a, a_low, a_high), (b, b_low, b_high) = np.log(now), np.log(before)

    low = a - b - math.sqrt((a - a_low) ** 2 + (b_high - b) ** 2)
    high = a - b + math.sqrt((a_high - a) ** 2 + (b - b_low) ** 2)
    return Estimate(math.exp(a - b), math.exp(low), math.exp(high))


def mann_whitney(now: Floats, before: Floats) -> float:
    """Two-sided p-value of the Mann-Whitney test (1947), ``before`` sorted.

    As scipy's asymptotic method with its continuity correction, but without that for ties. Not scipy's own, because that
    ranks all values again: here 45 of one run are compared with 30,000 that are sorted already.
    """
    n, m = len(now), len(before)
    below = np.searchsorted(before, now, side="left") + np.searchsorted(before, now, side="right")
    u = below.sum() / 2
    z = (abs(u - n * m / 2) - 0.5) / math.sqrt(n * m * (n + m + 1) / 12)
    return float(min(1.0, 2 * ndtr(-z)))


def cohens_d(now: Floats, before: Floats) -> float:
    """Difference of the means over the pooled standard deviation (Cohen, 1988, section 2.2); 0 where nothing varies."""
    n, m = len(now), len(before)
    pooled = ((n - 1) * now.var(ddof=1) + (m - 1) * before.var(ddof=1)) / (n + m - 2)
    return float((now.mean() - before.mean()) / math.sqrt(pooled)) if pooled > 0 else 0.0


def probability_slower(now: Floats, before: Floats) -> float:
    """Probability that a value of ``now`` is larger than one of ``before``, ties counting half (Vargha & Delaney, 2000)."""
    ordered = np.sort(before)
    below = np.searchsorted(ordered, now, side="left") + np.searchsorted(ordered, now, side="right")
    return float(below.mean() / (2 * len(ordered)))


def hodges_lehmann(now: Floats, before: Floats, *, level: float = 0.95, at_most: int = 2000) -> Estimate:
    """Median of all differences between ``now`` and ``before``, with the rank test's interval (Hodges & Lehmann, 1963;
    Hollander, Wolfe & Chicken, 2014, section 4.3).

    A longer ``before`` is represented by ``at_most`` evenly spaced quantiles; the width of the interval is that of the
    full sample.
    """
    n, m = len(now), len(before)
    thinned = np.sort(before)
    if m > at_most:
        thinned = thinned[np.linspace(0, m - 1, at_most).round().astype(np.intp)]
    differences = np.sort(np.subtract.outer(now, thinned).ravel())
    pairs = n * m
    reach = ndtri((1 + level) / 2) * math.sqrt(pairs * (n + m + 1) / 12)
    rank = max(0.0, (pairs / 2 - reach) / pairs)
    last = len(differences) - 1
    low, high = differences[round(rank * last)], differences[round((1 - rank) * last)]
    return Estimate(float(np.median(differences)), float(low), float(high))


def rank_test_power(d: float, n: int, m: int, *, alpha: float = 0.05) -> float:
    """Power of the Mann-Whitney test against a shift of ``d`` standard deviations of a normal distribution (Noether, 1987,
    with the variance under the shift)."""
    # Probability that the shifted one of two normal values is the larger, and the variance of the statistic at that shift.
    p = ndtr(d / math.sqrt(2))
    two_share_one = _both_above(d)
    sd_without_shift = math.sqrt(n * m * (n + m + 1) / 12)
    variance = n * m * (p * (1 - p) + (n - 1) * (two_share_one - p**2) + (m - 1) * (two_share_one - p**2))
    critical = ndtri(1 - alpha / 2) * sd_without_shift
    shift = n * m * (p - 0.5)
    return float(ndtr((shift - critical) / math.sqrt(variance)) + ndtr((-shift - critical) / math.sqrt(variance)))


def _both_above(d: float) -> float:
    """Probability that two shifted normal values both exceed an unshifted one: the differences have a correlation of 0.5, and
    their joint probability follows from Owen's (1956) T function."""
    at = d / math.sqrt(2)
    return float(ndtr(at) - 2 * owens_t(at, 1 / math.sqrt(3)))


@cache
def smallest_detectable_d(n: int, m: int, *, power: float = 0.8, alpha: float = 0.05) -> float:
    """The smallest shift, in standard deviations, that the rank test detects with that power."""
    return float(optimize.brentq(lambda d: rank_test_power(d, n, m, alpha=alpha) - power, 0.001, 10))


def proportion_interval(failed: int, requests: int, *, level: float = 0.95) -> Estimate:
    """The share that failed with Jeffreys' interval (Brown, Cai & DasGupta, 2001)."""
    low = 0.0 if failed == 0 else float(betaincinv(failed + 0.5, requests - failed + 0.5, (1 - level) / 2))
    high = 1.0 if failed == requests else float(betaincinv(failed + 0.5, requests - failed + 0.5, (1 + level) / 2))
    return Estimate(failed / requests, low, high)
