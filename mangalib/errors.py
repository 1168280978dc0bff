"""The one tree of errors.

MangaError
├── SettingsError            a setting is missing or invalid; raised at start
├── DataError                a file under data/, or a user's file, is missing or malformed
├── BadRequestError          a client message is invalid (bad_request)
│   ├── NotFoundError        it names something that does not exist (not_found)
│   └── InterruptedAnswerError    it resumes an answer that cannot be continued (interrupted)
├── AuthError                no token, or an invalid one (unauthorized)
├── BusyError                no capacity within the time limit (busy)
│   ├── DependencyDownError  a required service keeps failing
│   └── GoingAwayError       this server is shutting down: reconnect (going_away)
├── TransportError           a connection failed: refused, reset, closed, invalid bytes (unavailable)
│   └── TransportTimeoutError     no response within the time limit (timeout)
├── BedrockError             an error response of the model service (model_error)
├── ConnectionGoneError      the client's WebSocket is closed
├── SlowClientError          the client's buffer is full because it reads too slowly
├── ReleaseError             a release does not exist, is invalid, or could not be activated
├── ActionError              a page or a rollback failed
├── StackError               the local stack could not start
├── NotebookError            a notebook could not be run, or failed while running
│   └── JobRunningError      the same job is already running
└── ScheduleError            a schedule is invalid
"""

from __future__ import annotations


class MangaError(Exception):
    """Base class of all errors that this package raises.

    ``code`` is sent to the client in an ``error`` frame; messages of errors with the code ``internal`` are not.
    ``retry_after_ms`` is set when a retry after that time may succeed.
    """

    code = "internal"
    retry_after_ms: int | None = None


class SettingsError(MangaError):
    """A setting is missing or invalid; the message names the variable, the value and what was expected."""


class DataError(MangaError):
    """A data file is missing or malformed; the message names the file, the field, the value and what was expected."""


class BadRequestError(MangaError):
    """The client's message is invalid; the error's message names the field and what was expected."""

    code = "bad_request"


class NotFoundError(BadRequestError):
    """The client named something that does not exist, or no longer exists."""

    code = "not_found"


class InterruptedAnswerError(BadRequestError):
    """An interrupted answer cannot be continued, because the client has received more of it than the replay store holds."""

    code = "interrupted"


class AuthError(MangaError):
    """The client sent no token, or an invalid one."""

    code = "unauthorized"


class BusyError(MangaError):
    """There is no capacity for another request at the moment; ``retry_after_ms`` says when to try again."""

    code = "busy"

    def __init__(self, message: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class DependencyDownError(BusyError):
    """A required service kept failing; its circuit breaker is open."""


class GoingAwayError(BusyError):
    """This server is shutting down: it finishes running answers and accepts no new ones. Another server will."""

    code = "going_away"


class TransportError(MangaError):
    """A connection failed. ``answered`` is true if part of a response had arrived; otherwise a retry is safe."""

    code = "unavailable"

    def __init__(self, message: str, *, answered: bool = False) -> None:
        super().__init__(message)
        self.answered = answered


class TransportTimeoutError(TransportError):
    """The peer did not respond within the time limit."""

    code = "timeout"


class BedrockError(MangaError):
    """The model service returned an error.

    ``name`` is the service's name of it (``ThrottlingException``), ``status`` the HTTP status, 200 for one within a stream.
    """

    code = "model_error"

    def __init__(self, name: str, message: str, *, status: int) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name
        self.status = status

    @property
    def retryable(self) -> bool:
        """Whether a retry of the same request may succeed, by the service's own classification."""
        return self.name in _RETRYABLE


_RETRYABLE = frozenset(
    {
        "ThrottlingException",
        "ModelNotReadyException",
        "ModelTimeoutException",
        "InternalServerException",
        "ServiceUnavailableException",
        "ModelStreamErrorException",
    }
)


class ConnectionGoneError(MangaError):
    """The WebSocket connection is closed (``GoneException``)."""


class SlowClientError(MangaError):
    """The gateway refused a frame because the client's buffer is full (``LimitExceededException``)."""


class ReleaseError(MangaError):
    """A release does not exist, is invalid, or could not be activated."""


class ActionError(MangaError):
    """An incident's action failed, or was not attempted because it could not be recorded."""


class StackError(MangaError):
    """The local stack, or one of its services, could not start."""


class NotebookError(MangaError):
    """A notebook could not be run, or failed while running; its output so far is kept."""


class JobRunningError(NotebookError):
    """The same job is already running, on this or another machine."""


class ScheduleError(MangaError):
    """A schedule is invalid; the message names the file, the line, the value and what was expected."""
