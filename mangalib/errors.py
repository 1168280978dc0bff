"""The one tree of errors.

MangaError
├── SettingsError            a setting is missing or wrong; raised before anything starts
├── DataError                a file under data/ or a user's file is not what it should be
├── BadRequestError          the client sent something that cannot be served (bad_request)
│   ├── NotFoundError        ... because what it names is not there (not_found)
│   └── InterruptedAnswerError    ... because an answer broke off and cannot go on (interrupted)
├── AuthError                no token, or one that is not valid (unauthorized)
├── BusyError                no capacity within the time allowed (busy)
│   ├── DependencyDownError  ... because something that is needed keeps failing
│   └── GoingAwayError       ... because this server is about to end: connect again (going_away)
├── TransportError           a connection failed: refused, reset, closed, wrong bytes (unavailable)
│   └── TransportTimeoutError     ... or did not answer in time (timeout)
├── BedrockError             the model service answered with an error, name and status kept (model_error)
├── ConnectionGoneError      the client's WebSocket is no longer there
├── SlowClientError          the client takes its frames too slowly and its buffer is full
├── ReleaseError             a release cannot be made, found or made active
├── ActionError              a page or a rollback could not be done
├── StackError               the local stack could not start
├── NotebookError            a notebook could not be run, or failed while running
│   └── JobRunningError      ... because the same job is running already
├── ScheduleError            a schedule is not what it should be
└── CloudError               something is missing in the AWS account
"""

from __future__ import annotations


class MangaError(Exception):
    """Base of every error this package raises on purpose.

    ``code`` is what a client is told in an ``error`` frame; texts of errors without a public code never reach it.
    ``retry_after_ms`` is when asking again would help, where that is known.
    """

    code = "internal"
    retry_after_ms: int | None = None


class SettingsError(MangaError):
    """A setting is missing or wrong; the message names the variable, the value and what is allowed."""


class DataError(MangaError):
    """A data file cannot be used; the message names the file, the field, the value and what was expected."""


class BadRequestError(MangaError):
    """The client's message cannot be served; the message says which field and why."""

    code = "bad_request"


class NotFoundError(BadRequestError):
    """The client named something that does not exist, or not any more."""

    code = "not_found"


class InterruptedAnswerError(BadRequestError):
    """An answer broke off, and what the client has of it is more than what is known here: it cannot go on."""

    code = "interrupted"


class AuthError(MangaError):
    """The client is not who it says it is, or does not say."""

    code = "unauthorized"


class BusyError(MangaError):
    """There is no capacity for one more; trying again a little later is right, ``retry_after_ms`` says when."""

    code = "busy"

    def __init__(self, message: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class DependencyDownError(BusyError):
    """A service that is needed kept failing and is not asked for a moment."""


class GoingAwayError(BusyError):
    """This server finishes what it has begun and takes nothing new; another one will."""

    code = "going_away"


class TransportError(MangaError):
    """A connection failed. ``answered`` tells whether any byte of an answer had come: if not, a retry is safe."""

    code = "unavailable"

    def __init__(self, message: str, *, answered: bool = False) -> None:
        super().__init__(message)
        self.answered = answered


class TransportTimeoutError(TransportError):
    """The far side did not answer in the time allowed."""

    code = "timeout"


class BedrockError(MangaError):
    """The model service refused or broke off.

    ``name`` is the service's own (``ThrottlingException``), ``status`` the HTTP status, 200 for one inside a stream.
    """

    code = "model_error"

    def __init__(self, name: str, message: str, *, status: int) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name
        self.status = status

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed on a second try (the service's own classification)."""
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
    """A release does not exist, cannot be, or could not be made active."""


class ActionError(MangaError):
    """Something that an incident asks for could not be done, or must not be done because it cannot be noted."""


class StackError(MangaError):
    """The local stack, or a service of it, could not start."""


class NotebookError(MangaError):
    """A notebook could not be run; what it had produced is kept."""


class JobRunningError(NotebookError):
    """The same job runs already, here or on another machine."""


class ScheduleError(MangaError):
    """A schedule cannot be used; the message names the file, the line, the value and what was expected."""


class CloudError(MangaError):
    """The AWS account lacks something, or cannot be asked."""
