"""Leases: at most one run of a job at a time, even when a machine dies in the middle of one.

A lease carries the job's schedule cursor, the due time that was started last, so that the next owner of the lease, on any
machine, knows what has been done. On one machine a lease is a locked file, which the operating system unlocks however the
process ends. Several machines share leases in Redis or DynamoDB; these expire unless they are renewed.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec
import redis
from filelock import FileLock, Timeout
from redis.exceptions import LockError, LockNotOwnedError, RedisError
from redis.lock import Lock

from mangalib.aws import DocumentTable, dynamodb_client
from mangalib.errors import JobRunningError, NotebookError, SettingsError
from mangalib.settings import LeaseSettings
from mangalib.storage import write_atomically

log = logging.getLogger(__name__)


class ScheduleCursor(msgspec.Struct, frozen=True):
    """How far a scheduled job has come: the due time started last, in ISO 8601, and the attempts made at it."""

    due_at: str = ""
    attempts: int = 0


class Lease(Protocol):
    """Exclusive use of a job until it is released."""

    cursor: ScheduleCursor

    def write(self, cursor: ScheduleCursor) -> None:
        """Store the cursor. Raises ``NotebookError`` if that fails or the lease was lost: then the job must not start."""

    def renew(self) -> bool:
        """Extend the lease; ``False`` when it was lost."""

    def release(self) -> None:
        """Give the lease up."""


class Leases(Protocol):
    """A source of leases. Its methods raise ``NotebookError`` when it cannot be reached or written to."""

    def take(self, job: str) -> Lease | None:
        """The lease of a job, or ``None`` while another process holds it."""

    def cursor(self, job: str) -> ScheduleCursor:
        """A job's cursor, read without taking the lease."""


@contextmanager
def keep_renewed(lease: Lease, lease_s: float) -> Iterator[threading.Event]:
    """Renew a lease while the block runs, then release it. The event yielded is set when the lease was lost."""
    lost, done = threading.Event(), threading.Event()

    def renew() -> None:
        renewed_s = time.monotonic()
        while not done.wait(lease_s / 3):
            try:
                if not lease.renew():
                    lost.set()
                    return
                renewed_s = time.monotonic()
            except (NotebookError, RedisError, OSError) as error:
                log.warning("lease not renewed: %s", error)
                if time.monotonic() - renewed_s > lease_s:
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


def take_lease(leases: Leases, job: str) -> Lease:
    """The lease of a job. Raises ``JobRunningError`` while another process holds it."""
    lease = leases.take(job)
    if lease is None:
        raise JobRunningError(f"job {job} is already running, on this machine or another")
    return lease


def leases_of(settings: LeaseSettings, folder: Path) -> Leases:
    """The leases that ``MANGA_JOB_LEASES`` names; ``folder`` is for those that are files."""
    if settings.job_leases == "redis":
        if settings.redis_url is None:
            raise SettingsError("MANGA_REDIS_URL is not set; expected a Redis server, as MANGA_JOB_LEASES is redis")
        client = redis.Redis.from_url(settings.redis_url, socket_timeout=5, socket_connect_timeout=5)
        return RedisLeases(client, settings.job_lease_s)
    if settings.job_leases == "dynamodb":
        return TableLeases(dynamodb_client(settings), settings.jobs_table, settings.job_lease_s)
    return FileLeases(folder)


class FileLeases:
    """Locked files for one machine, each with its cursor in a file beside it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take(self, job: str) -> Lease | None:
        """The lease of a job, or ``None`` while another process holds it."""
        # No soft lock: only a lock of the operating system ends with its process.
        path = self._folder / f"{job}.lock"
        lock = FileLock(path, mode=0o600, blocking=False, thread_local=False, fallback_to_soft=False)
        with _notebook_errors(f"{self._folder}: no leases can be kept there"):
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire()
            except Timeout:
                return None
        return _FileLease(lock, self._folder / f"{job}.json", self.cursor(job))

    def cursor(self, job: str) -> ScheduleCursor:
        """A job's cursor, read without taking the lease."""
        with _notebook_errors(f"{self._folder}: no leases can be kept there"):
            path = self._folder / f"{job}.json"
            return _decoded(path.read_bytes()) if path.exists() else ScheduleCursor()


class _FileLease:
    def __init__(self, lock: FileLock, cursor_file: Path, cursor: ScheduleCursor) -> None:
        self._lock, self._cursor_file = lock, cursor_file
        self.cursor = cursor

    def write(self, cursor: ScheduleCursor) -> None:
        with _notebook_errors("schedule cursor not stored"):
            write_atomically(self._cursor_file, msgspec.json.encode(cursor).decode())
        self.cursor = cursor

    def renew(self) -> bool:
        return True

    def release(self) -> None:
        self._lock.release()


class RedisLeases:
    """Redis locks that expire after ``lease_s``, each with its cursor in a key beside it."""

    def __init__(self, client: Any, lease_s: float) -> None:
        self._client = client
        self._lease_s = lease_s

    def take(self, job: str) -> Lease | None:
        """The lease of a job, or ``None`` while another process holds it."""
        lock = Lock(self._client, f"job:{job}:lease", timeout=self._lease_s, blocking=False, thread_local=False)
        with _notebook_errors("Redis, which keeps the leases of jobs"):
            if not lock.acquire():
                return None
        return _RedisLease(self._client, lock, _cursor_key(job), self.cursor(job))

    def cursor(self, job: str) -> ScheduleCursor:
        """A job's cursor, read without taking the lease."""
        with _notebook_errors("Redis, which keeps the leases of jobs"):
            return _decoded(self._client.get(_cursor_key(job)) or b"")


class _RedisLease:
    def __init__(self, client: Any, lock: Lock, cursor_key: str, cursor: ScheduleCursor) -> None:
        self._client, self._lock, self._cursor_key = client, lock, cursor_key
        self.cursor = cursor

    def write(self, cursor: ScheduleCursor) -> None:
        def store(pipeline: Any) -> None:
            # The lock's key is watched: if the lease expires before the cursor is stored, the transaction is aborted.
            if not self._lock.owned():
                raise LockNotOwnedError("the lease has expired")
            pipeline.multi()
            pipeline.set(self._cursor_key, msgspec.json.encode(cursor))

        with _notebook_errors("schedule cursor not stored"):
            self._client.transaction(store, self._lock.name)
        self.cursor = cursor

    def renew(self) -> bool:
        try:
            return bool(self._lock.reacquire())
        except LockError:
            return False

    def release(self) -> None:
        try:
            self._lock.release()
        except RedisError as error:
            log.warning("%s: lease not released; it expires by itself: %s", self._lock.name, error)


class _Held(msgspec.Struct, frozen=True):
    # The name that machines with an older version read and write in the shared table.
    cursor: ScheduleCursor = msgspec.field(name="turn", default=ScheduleCursor())
    owner: str = ""
    until_s: float = 0.0


class TableLeases:
    """DynamoDB items that expire after ``lease_s`` by the machines' clocks, which must agree to within that time."""

    def __init__(self, dynamodb: Any, table: str, lease_s: float) -> None:
        self._table = DocumentTable(dynamodb, table, key="job", error=NotebookError)
        self._lease_s = lease_s

    def take(self, job: str) -> Lease | None:
        """The lease of a job, or ``None`` while another process holds it."""
        item = self._table.get(job)
        held = _held(item)
        if held.owner and held.until_s > time.time():
            return None
        lease = _TableLease(self._table, job, item, held.cursor, self._lease_s)
        return lease if lease.renew() else None

    def cursor(self, job: str) -> ScheduleCursor:
        """A job's cursor, read without taking the lease."""
        return _held(self._table.get(job)).cursor


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
            raise NotebookError("schedule cursor not stored: the lease has expired")

    def renew(self) -> bool:
        return self._put(None, self._owner)

    def release(self) -> None:
        try:
            self._put(None, "")
        except NotebookError as error:
            log.warning("job %s: lease not released; it expires by itself: %s", self._job, error)

    def _put(self, cursor: ScheduleCursor | None, owner: str) -> bool:
        with self._writing:
            held = _Held(cursor or self.cursor, owner, time.time() + self._lease_s)
            after = {"job": self._job, "body": msgspec.json.encode(held).decode()}
            if not self._table.put(after, instead_of=self._item):
                return False
            self._item, self.cursor = after, held.cursor
            return True


def _held(item: dict[str, Any] | None) -> _Held:
    return _Held() if item is None else msgspec.json.decode(str(item["body"]), type=_Held)


def _decoded(content: bytes) -> ScheduleCursor:
    return msgspec.json.decode(content, type=ScheduleCursor) if content else ScheduleCursor()


@contextmanager
def _notebook_errors(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RedisError) as error:
        raise NotebookError(f"{what}: {error}") from None


def _cursor_key(job: str) -> str:
    return f"job:{job}:turn"
