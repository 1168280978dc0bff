"""What keeps failing is left alone for a moment, and trying again never becomes a storm. Clocks are injected."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mangalib.errors import DependencyDownError
from mangalib.resilience.circuit_breaker import BreakerState, CircuitBreaker
from mangalib.resilience.retry_budget import RetryBudget

FAILURES, PAUSE_S = 3, 2.0


class BreakerMachine(RuleBasedStateMachine):
    """Any order of successes, failures, cancellations and waiting, beside the few words that say what must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.breaker = CircuitBreaker("it", failures=FAILURES, pause_s=PAUSE_S, clock=lambda: self.now_s)
        self.in_a_row = 0
        self.last_s = 0.0

    def _passes(self) -> bool:
        return self.in_a_row < FAILURES or self.now_s >= self.last_s + PAUSE_S

    @rule(wait_s=st.floats(0, 3))
    def wait(self, wait_s: float) -> None:
        self.now_s += wait_s

    @precondition(lambda self: self._passes())
    @rule(error=st.sampled_from([None, OSError(), KeyError(), asyncio.CancelledError()]))
    def ask(self, error: BaseException | None) -> None:
        self.last_s = self.now_s
        try:
            with self.breaker.watch(lambda e: isinstance(e, OSError)):
                if error is not None:
                    raise error
        except (OSError, KeyError, asyncio.CancelledError) as raised:
            assert raised is error
        if error is None:
            self.in_a_row = 0
        elif isinstance(error, OSError):
            self.in_a_row += 1

    @precondition(lambda self: not self._passes())
    @rule()
    def is_refused(self) -> None:
        with pytest.raises(DependencyDownError, match="it keeps failing") as refused, self.breaker.watch():
            raise AssertionError("asked all the same")
        left_ms = (self.last_s + PAUSE_S - self.now_s) * 1000
        assert refused.value.retry_after_ms == round(left_ms)

    @invariant()
    def state_says_it(self) -> None:
        assert (self.breaker.state is BreakerState.OPEN) == (not self._passes())
        assert (self.breaker.state is BreakerState.CLOSED) == (self.in_a_row < FAILURES)


TestBreaker = BreakerMachine.TestCase


def test_half_open_lets_one_through_and_not_a_crowd() -> None:
    now_s = 0.0
    breaker = CircuitBreaker("it", failures=1, pause_s=PAUSE_S, clock=lambda: now_s)
    with pytest.raises(OSError, match="down"), breaker.watch():
        raise OSError("down")
    now_s = PAUSE_S
    with breaker.watch(), pytest.raises(DependencyDownError), breaker.watch():
        raise AssertionError("a second one passed")
    assert breaker.state is BreakerState.CLOSED


def test_an_allowance_is_a_share_of_the_ordinary_requests_in_the_long_run() -> None:
    allowance = RetryBudget(0.02, 5)
    taken = 0
    for _ in range(10_000):
        allowance.deposit()
        taken += allowance.withdraw()
    assert taken == pytest.approx(0.02 * 10_000 + 5, abs=1)


def test_an_allowance_bursts_only_so_far() -> None:
    allowance = RetryBudget(0.1, 5)
    for _ in range(1000):
        allowance.deposit()
    assert sum(allowance.withdraw() for _ in range(100)) == 5
    for _ in range(9):
        allowance.deposit()
    assert not allowance.withdraw()
    allowance.deposit()
    assert allowance.withdraw(), "ten times a tenth is one"


def test_no_share_is_nothing_at_all() -> None:
    allowance = RetryBudget(0, 5)
    allowance.deposit()
    assert not allowance.withdraw()
