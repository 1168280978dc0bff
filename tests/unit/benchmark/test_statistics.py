"""Statistics: checked against scipy, brute force, published tables and simulated samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mangalib.benchmark import statistics
from mangalib.benchmark.statistics import Estimate


def lognormal(rng: np.random.Generator, *shape: int, sigma: float = 0.4) -> np.ndarray:
    return np.exp(rng.normal(0, sigma, shape))


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_intervals_of_a_quantile_have_their_nominal_coverage(share: float) -> None:
    rng = np.random.default_rng(1)
    samples = np.sort(lognormal(rng, 6000, 45), axis=-1)
    low, high = (statistics.quantile(samples, at) for at in statistics.quantile_bounds(45, share))
    true = math.exp(0.4 * stats.norm.ppf(share))
    assert 0.93 <= ((low <= true) & (true <= high)).mean() <= 0.97
    assert statistics.quantile_interval(samples[0], share).low == pytest.approx(low[0])


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_intervals_of_a_ratio_have_their_nominal_coverage(share: float) -> None:
    rng = np.random.default_rng(2)
    held = []
    for _ in range(1500):
        now, before = 1.25 * lognormal(rng, 45), lognormal(rng, 2000)
        parts = [statistics.quantile_interval(values, share) for values in (now, before)]
        ratio = statistics.ratio_interval(*parts)
        held.append(ratio.low <= 1.25 <= ratio.high)
    assert 0.93 <= np.mean(held) <= 0.97


def test_mann_whitney_agrees_with_scipy() -> None:
    rng = np.random.default_rng(6)
    now, before = lognormal(rng, 45) * 1.1, lognormal(rng, 3000)
    expected = stats.mannwhitneyu(now, before, alternative="two-sided", method="asymptotic").pvalue
    assert statistics.mann_whitney(now, np.sort(before)) == pytest.approx(expected, rel=1e-6)


def test_effect_sizes_follow_their_definitions() -> None:
    now, before = np.array([2.0, 4.0, 4.0, 9.0]), np.array([1.0, 2.0, 4.0])
    pairs = [(a > b) + 0.5 * (a == b) for a in now for b in before]
    assert statistics.probability_slower(now, before) == pytest.approx(np.mean(pairs))
    # Cohen (1988): means 10 apart, both standard deviations 20: d is 0.5.
    rng = np.random.default_rng(7)
    a, b = rng.normal(110, 20, 200_000), rng.normal(100, 20, 200_000)
    assert statistics.cohens_d(a, b) == pytest.approx(0.5, abs=0.01)
    assert statistics.cohens_d(np.ones(5), np.ones(5)) == 0


def test_hodges_lehmann_is_the_median_of_all_differences_with_nominal_coverage() -> None:
    rng = np.random.default_rng(8)
    now, before = rng.normal(3, 1, 15), rng.normal(0, 1, 20)
    assert statistics.hodges_lehmann(now, before).value == pytest.approx(np.median(np.subtract.outer(now, before)))
    held = []
    for _ in range(800):
        shift = statistics.hodges_lehmann(rng.normal(0.5, 1, 45), rng.normal(0, 1, 2500), at_most=400)
        held.append(shift.low <= 0.5 <= shift.high)
    assert 0.93 <= np.mean(held) <= 0.97


def test_power_agrees_with_simulation_and_grows_with_the_baseline() -> None:
    rng = np.random.default_rng(9)
    drawn = [(rng.normal(0.5, 1, 50), np.sort(rng.normal(0, 1, 50))) for _ in range(1500)]
    found = np.mean([statistics.mann_whitney(now, before) < 0.05 for now, before in drawn])
    assert statistics.rank_test_power(0.5, 50, 50) == pytest.approx(found, abs=0.04)
    assert statistics.rank_test_power(0.5, 50, 30_000) > 0.9
    smallest = statistics.smallest_detectable_d(45, 30_000)
    assert statistics.rank_test_power(smallest, 45, 30_000) == pytest.approx(0.8, abs=1e-6)


def test_shares_have_jeffreys_intervals() -> None:
    # Brown, Cai & DasGupta (2001), table 5: n = 20, x = 5.
    found = statistics.proportion_interval(5, 20)
    assert (found.low, found.high) == (pytest.approx(0.102, abs=5e-4), pytest.approx(0.464, abs=5e-4))
    assert statistics.proportion_interval(0, 50).low == 0
    assert statistics.proportion_interval(50, 50).high == 1


def test_a_ratio_of_two_known_numbers_is_known() -> None:
    assert statistics.ratio_interval(Estimate(3, 3, 3), Estimate(2, 2, 2)) == pytest.approx((1.5, 1.5, 1.5))
