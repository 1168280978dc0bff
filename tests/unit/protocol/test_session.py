"""The life of a session, by the specification and in any order of events."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mangalib.protocol.session import RateLimit, Session, SessionState
from mangalib.settings import load_settings

SETTINGS = load_settings()


def active(now_s: float = 0.0) -> Session:
    session = Session(SETTINGS, now_s)
    session.connected(now_s)
    session.authenticated(now_s)
    session.activity(now_s)
    return session


def test_a_session_goes_through_the_specified_states() -> None:
    session = Session(SETTINGS, 0)
    states = [session.state]
    for happens in (session.connected, session.authenticated, session.activity, session.query_started):
        happens(0)
        states.append(session.state)
    session.query_ended(1)
    states.append(session.state)
    assert [state.value for state in states] == [
        "connecting",
        "connected",
        "authenticated",
        "active",
        "streaming",
        "active",
    ]


def test_a_session_is_idle_after_five_minutes_and_ends_after_ten() -> None:
    session = active()
    assert not session.tick(299.9)
    assert session.tick(300)
    assert session.state is SessionState.IDLE
    session.activity(599)
    assert session.state is SessionState.ACTIVE
    assert not session.tick(898)
    session.tick(1199)
    assert session.state is SessionState.DISCONNECTED


def test_a_running_answer_keeps_it_from_going_idle() -> None:
    session = active()
    session.query_started(0)
    assert not session.tick(10_000)


def test_reconnecting_ends_after_three_failed_retries() -> None:
    session = active()
    session.query_started(0)
    session.network_error(1)
    for _ in range(2):
        session.retry_failed(2)
        assert session.state is SessionState.RECONNECTING
    session.retry_failed(3)
    assert session.state is SessionState.DISCONNECTED


def test_a_successful_reconnect_makes_it_active_and_forgives_failures() -> None:
    session = active()
    session.query_started(0)
    session.network_error(1)
    session.retry_failed(2)
    session.reconnected(3)
    assert (session.state, session.failed_retries) == (SessionState.ACTIVE, 0)


def test_a_network_error_without_a_running_answer_is_the_end() -> None:
    session = active()
    session.network_error(1)
    assert session.state is SessionState.DISCONNECTED
    with pytest.raises(
        ValueError, match="session is disconnected; expected authenticated or active or streaming or idle"
    ):
        session.activity(2)


def test_an_event_that_the_state_does_not_allow_is_refused() -> None:
    session = Session(SETTINGS, 0)
    with pytest.raises(ValueError, match="session is connecting; expected connected"):
        session.authenticated(0)
    assert session.state is SessionState.CONNECTING


def test_a_session_ends_once() -> None:
    session = active()
    session.network_error(1)
    with pytest.raises(ValueError, match="needs a new session"):
        session.network_error(2)


def test_a_second_network_error_changes_nothing_while_reconnecting() -> None:
    session = active()
    session.query_started(0)
    session.network_error(1)
    session.network_error(2)
    assert session.state is SessionState.RECONNECTING


def test_reconnecting_ends_when_the_answer_is_no_longer_kept() -> None:
    session = active()
    session.query_started(0)
    session.network_error(1)
    assert not session.tick(1 + SETTINGS.replay_ttl_s - 0.1)
    assert session.state is SessionState.RECONNECTING
    assert session.tick(1 + SETTINGS.replay_ttl_s)
    assert session.state is SessionState.DISCONNECTED


@pytest.mark.parametrize("quiet_s", [1, 10_000])
def test_time_changes_neither_a_session_that_is_connecting_nor_one_that_has_ended(quiet_s: float) -> None:
    connecting, ended = Session(SETTINGS, 0), active()
    ended.network_error(0)
    assert not connecting.tick(quiet_s)
    assert not ended.tick(quiet_s)


def test_the_rate_limit_counts_in_windows_of_a_second() -> None:
    limit = RateLimit(3)
    assert [limit.over(at) for at in (0, 0.1, 0.2, 0.3, 0.9, 1.0)] == [0, 0, 0, 1, 2, 0]


class SessionLife(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now_s, self.running, self.session = 0.0, 0, active()

    @precondition(lambda self: self.session.state not in {SessionState.DISCONNECTED, SessionState.RECONNECTING})
    @rule()
    def start(self) -> None:
        self.session.query_started(self.now_s)
        self.running += 1

    @precondition(lambda self: self.running and self.session.state is SessionState.STREAMING)
    @rule()
    def end(self) -> None:
        self.session.query_ended(self.now_s)
        self.running -= 1

    @precondition(lambda self: self.session.state is SessionState.STREAMING)
    @rule()
    def cut_and_reconnect(self) -> None:
        self.session.network_error(self.now_s)
        assert self.session.state is SessionState.RECONNECTING
        self.session.reconnected(self.now_s)
        self.running = 0

    @rule()
    def wait(self) -> None:
        self.now_s += 250
        self.session.tick(self.now_s)

    @invariant()
    def streaming_exactly_while_something_runs(self) -> None:
        if self.session.state is not SessionState.DISCONNECTED:
            assert (self.session.state is SessionState.STREAMING) == (self.running > 0)


TestSessionLife = SessionLife.TestCase
TestSessionLife.settings = settings(max_examples=50, deadline=None)
