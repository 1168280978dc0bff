"""Retry budget: retries never exceed a share of the ordinary requests, plus a burst."""

from __future__ import annotations

import pytest

from mangalib.resilience import RetryBudget


def test_retries_are_a_share_of_the_ordinary_requests_in_the_long_run() -> None:
    budget = RetryBudget(0.02, 5)
    allowed = 0
    for _ in range(10_000):
        budget.deposit()
        allowed += budget.withdraw()
    assert allowed == pytest.approx(0.02 * 10_000 + 5, abs=1)


def test_unused_retries_are_saved_up_to_the_burst() -> None:
    budget = RetryBudget(0.1, 5)
    for _ in range(1000):
        budget.deposit()
    assert sum(budget.withdraw() for _ in range(100)) == 5
    for _ in range(9):
        budget.deposit()
    assert not budget.withdraw()
    budget.deposit()
    assert budget.withdraw(), "ten deposits of a tenth allow one"


def test_a_share_of_zero_allows_no_retry() -> None:
    budget = RetryBudget(0, 5)
    budget.deposit()
    assert not budget.withdraw()
