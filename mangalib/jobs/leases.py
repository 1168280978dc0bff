"""Leases: no two runs of one job at once, also when a machine dies in the middle of one.

A lease carries the job's turn: the due time that was last taken, so that whoever takes the job next, here or elsewhere, knows
what has been done. On one machine it is a locked file, which the operating system unlocks however the process ends; several
machines share leases in Redis or DynamoDB, which run out unless they are renewed.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec
import redis
from redis.exceptions import RedisError

from mangalib.aws import DocumentTable, dynamodb_client
from mangalib.errors import JobRunningError, NotebookError, SettingsError
from mangalib.settings import Settings

log = logging.getLogger(__name__)

_TURN_BYTES = 512
_NAME = re.compile(r"[\w.-]{1,100}")


class ScheduleCursor(msgspec.Struct, frozen=True):
    """What is known of a scheduled job: the due time taken last, as ISO 8601, and how often that was tried."""

    due_at: str = ""
    attempts: int = 0


class Lease(Protocol):
    """A job that is ours until released."""

    cursor: ScheduleCursor

    def write(self, cursor: ScheduleCursor) -> None:
        """Note the turn; raises ``NotebookError`` when it cannot be noted, and then it must not be taken."""

    def renew(self) -> bool:
        """Make it last; whether it is still ours."""

    def release(self) -> None:
        """Let others have it."""


class Leases(Protocol):
    """Where leases come from."""

    def take(self, job: str) -> Lease | None:
        """The lease of a job, or ``None`` while another has it."""

    def cursor(self, job: str) -> ScheduleCursor:
        """What is known of a job, without taking it."""


@contextmanager
def kept(lease: Lease, lease_s: float) -> Iterator[threading.Event]:
    """Renew a lease while the block runs, then release it. The event is set when it was lost: then stop."""
    lost, done = threading.Event(), threading.Event()

    def renew() -> None:
        last_s = time.monotonic()
        while not done.wait(lease_s / 3):
            try:
                if not lease.renew():
                    lost.set()
                    return
                last_s = time.monotonic()
            except (NotebookError, RedisError, OSError) as error:
                log.warning("a lease could not be renewed: %s", error)
                if time.monotonic() - last_s > lease_s:
                    lost.set()
                    return

    renewing = threading.Thread(target=renew, name="lease", daemon=True)
    renewing.start()
    try:
        yield lost
    finally:
        done.set()
        renewing.join()
        lease.release()


def hold(leases: Leases, job: str) -> Lease:
    """The lease of a job; raises ``JobRunningError`` while another has it."""
    lease = leases.take(job)
    if lease is None:
        raise JobRunningError(f"job {job} is running already, here or on another machine")
    return lease


def leases_of(settings: Settings, folder: Path) -> Leases:
    """The leases that the settings name; ``folder`` is where files would be."""
    if settings.job_leases == "redis":
        if settings.redis_url is None:
            raise SettingsError("MANGA_REDIS_URL is not set; expected a Redis server, as MANGA_JOB_LEASES is redis")
        client = redis.Redis.from_url(settings.redis_url, socket_timeout=5, socket_connect_timeout=5)
        return RedisLeases(client, settings.job_lease_s)
    if settings.job_leases == "dynamodb":
        return TableLeases(dynamodb_client(settings), settings.jobs_table, settings.job_lease_s)
    return FileLeases(folder)


class FileLeases:
    """Locked files (``flock``), for one machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take(self, job: str) -> Lease | None:
        """The lease of a job, or ``None`` while another has it."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._folder / f"{_checked(job)}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise NotebookError(f"{self._folder}: no lease can be kept there: {error}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return _FileLease(descriptor)

    def cursor(self, job: str) -> ScheduleCursor:
        """What is known of a job, without taking it."""
        try:
            return _decoded((self._folder / f"{_checked(job)}.lock").read_bytes())
        except FileNotFoundError:
            return ScheduleCursor()
        except OSError as error:
            raise NotebookError(f"{self._folder}: no lease can be kept there: {error}") from None


class _FileLease:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.cursor = _decoded(os.pread(descriptor, _TURN_BYTES, 0))

    def write(self, cursor: ScheduleCursor) -> None:
        # One write of one length: killed at any moment, the old turn or the new one is there.
        try:
            os.pwrite(self._descriptor, msgspec.json.encode(cursor).ljust(_TURN_BYTES), 0)
        except OSError as error:
            raise NotebookError(f"the job's turn could not be noted: {error}") from None
        self.cursor = cursor

    def renew(self) -> bool:
        return True

    def release(self) -> None:
        os.close(self._descriptor)


_WRITE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[2], ARGV[2]) return 1 end return 0"
_RENEW = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class RedisLeases:
    """Keys in Redis that run out after ``lease_s``, each with its owner's token (Redis documentation, "Distributed locks")."""

    def __init__(self, client: Any, lease_s: float) -> None:
        self._client = client
        self._lease_ms = int(lease_s * 1000)

    def take(self, job: str) -> Lease | None:
        """The lease of a job, or ``None`` while another has it."""
        token = uuid.uuid4().hex
        try:
            if not self._client.set(_lease_key(job), token, nx=True, px=self._lease_ms):
                return None
            return _RedisLease(self._client, job, token, self._lease_ms, self.cursor(job))
        except RedisError as error:
            raise NotebookError(f"Redis, which keeps the leases of jobs: {error}") from None

    def cursor(self, job: str) -> ScheduleCursor:
        """What is known of a job, without taking it."""
        try:
            return _decoded(self._client.get(_turn_key(job)) or b"")
        except RedisError as error:
            raise NotebookError(f"Redis, which keeps the leases of jobs: {error}") from None


class _RedisLease:
    def __init__(self, client: Any, job: str, token: str, lease_ms: int, cursor: ScheduleCursor) -> None:
        self._client, self._job, self._token, self._lease_ms = client, job, token, lease_ms
        self.cursor = cursor

    def write(self, cursor: ScheduleCursor) -> None:
        keys = (_lease_key(self._job), _turn_key(self._job))
        try:
            written = self._client.eval(_WRITE, 2, *keys, self._token, msgspec.json.encode(cursor))
        except RedisError as error:
            raise NotebookError(f"the job's turn could not be noted: {error}") from None
        if not written:
            raise NotebookError(f"the lease of {self._job} has run out")
        self.cursor = cursor

    def renew(self) -> bool:
        return bool(self._client.eval(_RENEW, 1, _lease_key(self._job), self._token, self._lease_ms))

    def release(self) -> None:
        try:
            self._client.eval(_RELEASE, 1, _lease_key(self._job), self._token)
        except RedisError as error:
            log.warning("Redis: %s; a lease is left to run out", error)


class _Held(msgspec.Struct, frozen=True):
    cursor: ScheduleCursor = ScheduleCursor()
    owner: str = ""
    until_s: float = 0.0


class TableLeases:
    """Items in DynamoDB that run out after ``lease_s`` by the machines' clocks, which must agree within a lease."""

    def __init__(self, dynamodb: Any, table: str, lease_s: float) -> None:
        self._table = DocumentTable(dynamodb, table, key="job", error=NotebookError)
        self._lease_s = lease_s

    def take(self, job: str) -> Lease | None:
        """The lease of a job, or ``None`` while another has it."""
        item = self._table.get(_checked(job))
        known = _held(item)
        if known.owner and known.until_s > time.time():
            return None
        lease = _TableLease(self._table, job, item, known.cursor, self._lease_s)
        return lease if lease.renew() else None

    def cursor(self, job: str) -> ScheduleCursor:
        """What is known of a job, without taking it."""
        return _held(self._table.get(_checked(job))).cursor


class _TableLease:
    def __init__(
        self, table: DocumentTable, job: str, item: dict[str, Any] | None, cursor: ScheduleCursor, lease_s: float
    ) -> None:
        self._table, self._job, self._item, self._lease_s = table, job, item, lease_s
        self._owner = uuid.uuid4().hex
        self._writing = threading.Lock()
        self.cursor = cursor

    def write(self, cursor: ScheduleCursor) -> None:
        if not self._put(cursor, self._owner):
            raise NotebookError(f"the lease of {self._job} has run out")

    def renew(self) -> bool:
        return self._put(None, self._owner)

    def release(self) -> None:
        try:
            self._put(None, "")
        except NotebookError as error:
            log.warning("%s; a lease is left to run out", error)

    def _put(self, cursor: ScheduleCursor | None, owner: str) -> bool:
        with self._writing:
            cursor = cursor or self.cursor
            held = _Held(cursor, owner, time.time() + self._lease_s)
            after = {"job": self._job, "body": msgspec.json.encode(held).decode()}
            if not self._table.put(after, instead_of=self._item):
                return False
            self._item, self.cursor = after, cursor
            return True


def _held(item: dict[str, Any] | None) -> _Held:
    return _Held() if item is None else msgspec.json.decode(str(item["body"]), type=_Held)


def _decoded(content: bytes) -> ScheduleCursor:
    return msgspec.json.decode(content, type=ScheduleCursor) if content.strip() else ScheduleCursor()


def _lease_key(job: str) -> str:
    return f"job:{_checked(job)}:lease"


def _turn_key(job: str) -> str:
    return f"job:{_checked(job)}:turn"


def _checked(job: str) -> str:
    if not _NAME.fullmatch(job):
        raise NotebookError(f"job {job!r}: expected up to 100 letters, digits, dots, dashes and underscores")
    return job
