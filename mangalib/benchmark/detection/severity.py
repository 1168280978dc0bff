"""Severity: the specification's bands, applied to an estimate with its uncertainty instead of to one noisy number.

Where the bands begin is set in ``settings/benchmark.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mangalib.benchmark.detection.series import Bools, Floats, Ints
from mangalib.settings import DetectorSettings

NONE, WARNING, ALERT, CRITICAL = range(4)
NAMES = ("none", "SEV-3", "SEV-2", "SEV-1")
# Standard deviations within which an estimate lies with 90 % probability, on one side.
SURE_SD = 1.2816


@dataclass(frozen=True)
class Bands:
    """Where SEV-3, SEV-2 and SEV-1 begin, as shares: 0.25 is 25 % over the baseline, over target, or of requests."""

    starts: tuple[float, float, float]

    @classmethod
    def of_p95(cls, settings: DetectorSettings) -> Bands:
        """95th percentile over its baseline."""
        return cls((settings.p95_sev3, settings.p95_sev2, settings.p95_sev1))

    @classmethod
    def of_target(cls, settings: DetectorSettings) -> Bands:
        """95th percentile of the first token over its budget."""
        return cls((settings.target_sev3, settings.target_sev2, settings.target_sev1))

    @classmethod
    def of_errors(cls, settings: DetectorSettings) -> Bands:
        """Share of requests that failed."""
        return cls((settings.errors_sev3, settings.errors_sev2, settings.errors_sev1))

    def literal(self, value: Floats) -> Ints:
        """The band that each number lies in, in the shape of ``value``: 0 below all of them, 3 for SEV-1."""
        return np.searchsorted(self.starts, value, side="right")

    def judged(self, low: Floats, high: Floats, page: Bools) -> Ints:
        """The highest band that the interval from ``low`` to ``high`` reaches while ``low`` stays above half of that band's
        start; SEV-2 and SEV-1 also need evidence that justifies a ``page``. All three have one shape, and the result has it."""
        severity = np.zeros(np.shape(low), dtype=np.intp)
        for rank, start in enumerate(self.starts, start=1):
            reached = (high >= start) & (low >= start / 2) & (page | (rank == WARNING))
            severity[reached] = rank
        return severity
