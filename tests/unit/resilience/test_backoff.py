"""Exponential back-off: ceilings double up to a maximum, jitter stays within its range."""

from __future__ import annotations

import random
from itertools import islice

import pytest

from mangalib.resilience import NO_JITTER, backoff_pauses


def test_without_jitter_pauses_double_up_to_the_maximum() -> None:
    assert list(islice(backoff_pauses(0.05, 1.0, jitter=NO_JITTER), 7)) == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.5, 1.0), (0.5, 1.5)])
def test_jitter_spreads_each_pause_over_its_range(low: float, high: float) -> None:
    first_pauses = [next(backoff_pauses(2.0, 8.0, jitter=(low, high), rng=random.Random(seed))) for seed in range(500)]
    assert 2 * low <= min(first_pauses) < 2 * low + 0.1
    assert 2 * high - 0.1 < max(first_pauses) <= 2 * high


def test_full_jitter_is_the_default() -> None:
    pauses = list(islice(backoff_pauses(1.0, 4.0, rng=random.Random(1)), 1000))
    assert 0 <= min(pauses[2:]) < 0.1
    assert 3.9 < max(pauses) <= 4.0


def test_equal_seeds_give_equal_pauses() -> None:
    one, other = (list(islice(backoff_pauses(1.0, 4.0, rng=random.Random(7)), 5)) for _ in range(2))
    assert one == other
