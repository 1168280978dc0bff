"""The life of a session as a pure state machine: events and times in, states out. Server and client each keep one.

    connecting -> connected -> authenticated -> active <-> streaming
                                                 |  ^         |
                                                idle          reconnecting -> disconnected

Times are seconds of a monotonic clock.
"""

from __future__ import annotations

from enum import StrEnum

from mangalib.settings import SessionSettings


class SessionState(StrEnum):
    """The states that the specification names."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    AUTHENTICATED = "authenticated"
    ACTIVE = "active"
    STREAMING = "streaming"
    IDLE = "idle"
    RECONNECTING = "reconnecting"
    DISCONNECTED = "disconnected"


class Session:
    """One session. Methods are named for events; an event that is not allowed in the current state raises ``ValueError``."""

    def __init__(self, settings: SessionSettings, now_s: float) -> None:
        self.state = SessionState.CONNECTING
        self.failed_retries = 0
        self._settings = settings
        self._last_activity_s = now_s
        self._running = 0

    def connected(self, now_s: float) -> None:
        """``$connect`` succeeded."""
        self._require(SessionState.CONNECTING)
        self._change(SessionState.CONNECTED, now_s)

    def authenticated(self, now_s: float) -> None:
        """The token was accepted."""
        self._require(SessionState.CONNECTED)
        self._change(SessionState.AUTHENTICATED, now_s)

    def activity(self, now_s: float) -> None:
        """A message arrived."""
        self._require(SessionState.AUTHENTICATED, SessionState.ACTIVE, SessionState.STREAMING, SessionState.IDLE)
        self._change(SessionState.STREAMING if self._running else SessionState.ACTIVE, now_s)

    def query_started(self, now_s: float) -> None:
        """An answer is being generated."""
        self.activity(now_s)
        self._running += 1
        self._change(SessionState.STREAMING, now_s)

    def query_ended(self, now_s: float) -> None:
        """An answer completed, failed or was cancelled; after the last running one the session is active again."""
        self._running = max(0, self._running - 1)
        if self.state is SessionState.STREAMING and not self._running:
            self._change(SessionState.ACTIVE, now_s)

    def network_error(self, now_s: float) -> None:
        """The connection was lost: the client reconnects if an answer was running, otherwise the session ends."""
        if self.state is SessionState.STREAMING:
            self._change(SessionState.RECONNECTING, now_s)
        elif self.state is not SessionState.RECONNECTING:
            self._change(SessionState.DISCONNECTED, now_s)

    def retry_failed(self, now_s: float) -> None:
        """An attempt to reconnect failed; after ``reconnect_attempts`` of them the session ends."""
        self._require(SessionState.RECONNECTING)
        self.failed_retries += 1
        if self.failed_retries >= self._settings.reconnect_attempts:
            self._change(SessionState.DISCONNECTED, now_s)

    def reconnected(self, now_s: float) -> None:
        """The connection was re-established."""
        self._require(SessionState.RECONNECTING)
        self.failed_retries = 0
        self._running = 0
        self._change(SessionState.ACTIVE, now_s)

    def tick(self, now_s: float) -> bool:
        """Apply time limits; returns whether the state changed."""
        before, quiet_s = self.state, now_s - self._last_activity_s
        if before is SessionState.RECONNECTING:
            if quiet_s >= self._settings.replay_ttl_s:
                self.state = SessionState.DISCONNECTED
        elif before in {SessionState.AUTHENTICATED, SessionState.ACTIVE, SessionState.IDLE}:
            if quiet_s >= self._settings.idle_timeout_s:
                self.state = SessionState.DISCONNECTED
            elif quiet_s >= self._settings.session_idle_after_s:
                self.state = SessionState.IDLE
        return self.state is not before

    def _require(self, *states: SessionState) -> None:
        if self.state not in states:
            raise ValueError(f"session is {self.state}; expected {' or '.join(states)}")

    def _change(self, state: SessionState, now_s: float) -> None:
        if self.state is SessionState.DISCONNECTED:
            raise ValueError(f"session is disconnected; {state} needs a new session")
        self.state = state
        self._last_activity_s = now_s


class RateLimit:
    """At most ``per_second`` messages in a window of one second, which starts with the first message after the last window."""

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._window_start_s = float("-inf")
        self._count = 0

    def over(self, now_s: float) -> int:
        """Count one message; returns by how many messages the window is over its limit, 0 if it is not."""
        if now_s - self._window_start_s >= 1.0:
            self._window_start_s, self._count = now_s, 0
        self._count += 1
        return max(0, self._count - self._per_second)
