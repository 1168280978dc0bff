"""Severity bands at their edges."""

from __future__ import annotations

import numpy as np

from mangalib.benchmark.detection.severity import Bands

BANDS = Bands((0.1, 0.25, 0.5))
STARTS = np.array(BANDS.starts)
ALL = np.ones(3, dtype=bool)


def test_a_severity_band_begins_at_its_start() -> None:
    assert BANDS.literal(STARTS).tolist() == [1, 2, 3]
    assert BANDS.literal(STARTS - 1e-9).tolist() == [0, 1, 2]


def test_an_interval_reaches_a_severity_band_from_its_start_and_half_of_it() -> None:
    assert BANDS.judged(STARTS / 2, STARTS, ALL).tolist() == [1, 2, 3]
    assert BANDS.judged(STARTS / 2, STARTS - 1e-9, ALL).tolist() == [0, 1, 2]
    assert BANDS.judged(STARTS / 2 - 1e-9, STARTS, ALL).tolist() == [0, 1, 2]


def test_without_evidence_for_a_page_severity_is_a_warning_at_most() -> None:
    assert BANDS.judged(STARTS / 2, STARTS, ~ALL).tolist() == [1, 1, 1]
