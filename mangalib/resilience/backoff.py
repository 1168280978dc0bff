"""Exponential back-off with jitter (Brooker, "Exponential Backoff and Jitter", 2015)."""

from __future__ import annotations

import random
from collections.abc import Iterator

_RNG = random.Random()

FULL_JITTER = (0.0, 1.0)
NO_JITTER = (1.0, 1.0)


def backoff_pauses(
    first_s: float, max_s: float, *, jitter: tuple[float, float] = FULL_JITTER, rng: random.Random = _RNG
) -> Iterator[float]:
    """Yield the pauses between attempts, in seconds, without end.

    The ceiling starts at ``first_s`` and doubles up to ``max_s``. Each pause is the ceiling times a factor drawn
    uniformly from ``jitter``.

    >>> from itertools import islice
    >>> list(islice(backoff_pauses(0.2, 1.0, jitter=NO_JITTER), 4))
    [0.2, 0.4, 0.8, 1.0]
    """
    ceiling_s = first_s
    while True:
        yield ceiling_s * rng.uniform(*jitter)
        ceiling_s = min(2 * ceiling_s, max_s)
