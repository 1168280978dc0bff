"""Circuit breaker: any order of successes, failures, cancellations and waiting. The clock is injected."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mangalib.errors import DependencyDownError
from mangalib.resilience.circuit_breaker import BreakerState, CircuitBreaker

FAILURES, PAUSE_S = 3, 2.0


class BreakerMachine(RuleBasedStateMachine):
    """The breaker beside a count of consecutive failures and the time of the last request, which say whether it passes."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.breaker = CircuitBreaker("it", failures=FAILURES, pause_s=PAUSE_S, clock=lambda: self.now_s)
        self.consecutive = 0
        self.last_request_s = 0.0

    def _passes(self) -> bool:
        return self.consecutive < FAILURES or self.now_s >= self.last_request_s + PAUSE_S

    @rule(wait_s=st.floats(0, 3))
    def wait(self, wait_s: float) -> None:
        self.now_s += wait_s

    @precondition(lambda self: self._passes())
    @rule(error=st.sampled_from([None, OSError(), KeyError(), asyncio.CancelledError()]))
    def request(self, error: BaseException | None) -> None:
        self.last_request_s = self.now_s
        try:
            with self.breaker.watch(lambda e: isinstance(e, OSError)):
                if error is not None:
                    raise error
        except (OSError, KeyError, asyncio.CancelledError) as raised:
            assert raised is error
        if error is None:
            self.consecutive = 0
        elif isinstance(error, OSError):
            self.consecutive += 1

    @precondition(lambda self: not self._passes())
    @rule()
    def is_refused_while_open(self) -> None:
        with pytest.raises(DependencyDownError, match="it keeps failing") as refused, self.breaker.watch():
            raise AssertionError("a request was sent while open")
        left_ms = (self.last_request_s + PAUSE_S - self.now_s) * 1000
        assert refused.value.retry_after_ms == round(left_ms)

    @invariant()
    def state_follows_from_failures_and_time(self) -> None:
        assert (self.breaker.state is BreakerState.OPEN) == (not self._passes())
        assert (self.breaker.state is BreakerState.CLOSED) == (self.consecutive < FAILURES)


TestBreaker = BreakerMachine.TestCase


def test_half_open_admits_one_request_only() -> None:
    now_s = 0.0
    breaker = CircuitBreaker("it", failures=1, pause_s=PAUSE_S, clock=lambda: now_s)
    with pytest.raises(OSError, match="down"), breaker.watch():
        raise OSError("down")
    now_s = PAUSE_S
    with breaker.watch(), pytest.raises(DependencyDownError), breaker.watch():
        raise AssertionError("a second request was sent")
    assert breaker.state is BreakerState.CLOSED
