"""Runs and their records: `<notebook>/<UTC date>/<UTC time>-<id>.ipynb`, and beside it the same name with `.json`.

The records are the truth; ``runs.json`` only spares reading them all again. A record is there from a run's first moment, so
that a run that is killed is known of: whoever comes next finds it running and its lease free.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import tempfile
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import nbformat

from mangalib.errors import NotebookError
from mangalib.jobs.leases import Leases
from mangalib.jobs.parameters import Job
from mangalib.settings import Settings
from mangalib.storage import Storage

log = logging.getLogger(__name__)

RUNNING, OK, FAILED = "running", "ok", "failed"
KILLED = "killed: the process that ran it is gone"
_RESERVED_BYTES = 4096
_INDEX = "runs.json"
_RECORD = re.compile(r"[^/]+/\d{4}-\d\d-\d\d/\d{6}-\w+\.json")
_HEADLINE_CHARS = 160


class Record(msgspec.Struct, frozen=True):
    """A run's result record. ``attempt`` counts from 1; ``due_at`` is empty for a run that no schedule asked for."""

    notebook: str
    parameters: dict[str, Any]
    started_at: str
    finished_at: str | None
    status: str
    error: str | None
    results: dict[str, Any] = {}
    job: str = ""
    due_at: str = ""
    attempt: int = 1
    machine: str = ""
    html: bool = False
    seen_at: str | None = None


class Summary(msgspec.Struct, frozen=True):
    """One run in a line; ``name`` is its record's name without ``.json``."""

    name: str
    notebook: str
    job: str
    started_at: str
    status: str
    headline: str
    error: str
    duration_s: float | None
    html: bool
    seen: bool
    due_at: str = ""
    attempt: int = 1

    @property
    def unseen_failure(self) -> bool:
        """Whether it failed and nobody has looked at it."""
        return self.status == FAILED and not self.seen


class Run(msgspec.Struct, frozen=True):
    """A run's name and record."""

    name: str
    record: Record

    @property
    def ok(self) -> bool:
        """Whether every cell ran."""
        return self.record.status == OK

    @property
    def duration_s(self) -> float:
        """How long it took; 0 while it runs."""
        return duration_of(self.record) or 0.0


class Runs:
    """All runs in a place, a folder or ``s3://…``; ``leases`` tell a run that goes on from one that was killed."""

    def __init__(self, url: str | Path, leases: Leases, settings: Settings) -> None:
        self.storage = Storage(url, settings)
        self.leases = leases
        self._settings = settings

    # A run's life

    def begin(self, job: Job, *, name: str | None = None, due_at: str = "", attempt: int = 1) -> Run:
        """Note that a run starts; raises ``NotebookError`` when nothing can be written there."""
        now = datetime.now(UTC)
        name = name or f"{job.notebook.stem}/{now:%Y-%m-%d}/{now:%H%M%S}-{uuid.uuid4().hex[:6]}"
        record = Record(
            notebook=job.notebook.stem,
            parameters=dict(job.parameters),
            started_at=now.isoformat(),
            finished_at=None,
            status=RUNNING,
            error=None,
            job=job.name,
            due_at=due_at,
            attempt=attempt,
            machine=f"{socket.gethostname()} {os.getpid()}",
        )
        try:
            self.storage.make(name.rsplit("/", 1)[0])
            # With room to spare, so that the end can be noted even when nothing else fits on the disk.
            self.storage.write(f"{name}.json", _encoded(record).ljust(_RESERVED_BYTES))
        except OSError as error:
            why = f"{self.storage.url(name)}: a run cannot be kept there: {error}"
            ended = msgspec.structs.replace(record, status=FAILED, error=why, finished_at=now.isoformat())
            raise NotebookError(f"{why}; its record is {_left_elsewhere(name, ended)}") from None
        return Run(name, record)

    def finish(self, run: Run, *, error: str | None, results: dict[str, Any], html: bool = False) -> Run:
        """Note how it ended, there or, when that place takes nothing any more, in the temporary folder."""
        record = msgspec.structs.replace(
            run.record,
            finished_at=datetime.now(UTC).isoformat(),
            status=FAILED if error else OK,
            error=error,
            results=results,
            html=html,
        )
        try:
            self.storage.write(f"{run.name}.json", _encoded(record))
        except OSError as failure:
            record = msgspec.structs.replace(
                record, status=FAILED, error=f"{error or 'it ended'}; the record: {failure}"
            )
            self._squeeze(run.name, record)
        return Run(run.name, record)

    def _squeeze(self, name: str, record: Record) -> None:
        text = _encoded(msgspec.structs.replace(record, results={}, error=str(record.error)[:1000]))
        room = text.ljust(_RESERVED_BYTES).encode()
        try:
            with Path(self.storage.url(f"{name}.json")).open("r+b") as file:
                file.write(room)
        except OSError:
            log.error("%s takes no record; it is %s", self.storage.url(), _left_elsewhere(name, record))

    def record(self, name: str) -> Record:
        """A run's record; raises ``NotebookError`` when there is none."""
        try:
            return msgspec.json.decode(self.storage.read(f"{name}.json"), type=Record)
        except FileNotFoundError:
            raise NotebookError(f"no run {name!r}; `mangalib runs` lists them") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise NotebookError(f"{self.storage.url(name)}.json is not a record: {error}") from None

    def reap_orphans(self) -> list[Run]:
        """Mark the runs that were killed as failed; returns them. What they had run is kept."""
        return [run for run in map(self._mended, self.index()) if run is not None]

    def _mended(self, summary: Summary) -> Run | None:
        if summary.status != RUNNING:
            return None
        lease = self.leases.take(self.record(summary.name).job)
        if lease is None:
            return None
        try:
            return self.mend_one(summary.name)
        finally:
            lease.release()

    def mend_one(self, name: str) -> Run | None:
        """The same for one run whose lease the caller has."""
        record = self.record(name)
        if record.status != RUNNING:
            return None
        _mark_failed(self.storage, name, KILLED)
        return self.finish(Run(name, record), error=KILLED, results=record.results)

    def acknowledge(self, names: Sequence[str]) -> None:
        """Note that somebody has looked at these runs; retention may take them then."""
        for name in names:
            seen = msgspec.structs.replace(self.record(name), seen_at=datetime.now(UTC).isoformat())
            self.storage.write(f"{name}.json", _encoded(seen))
        known = self._cached()
        self._keep({name: summary for name, summary in known.items() if name not in names})

    # The index

    def index(self) -> list[Summary]:
        """All runs, the newest first."""
        known = self._cached()
        names = [name.removesuffix(".json") for name in self.storage.names() if _RECORD.fullmatch(name)]
        found = {name: known[name] if name in known else self._summary(name) for name in names}
        lasting = {name: summary for name, summary in found.items() if summary.status != RUNNING}
        if lasting != known:
            self._keep(lasting)
        return sorted(found.values(), key=lambda summary: (summary.started_at, summary.name), reverse=True)

    def prune(self, now: datetime) -> list[str]:
        """Delete runs that are too old or too many of one notebook; never one that failed unseen, nor a job's newest.

        Returns the names of those that are gone.
        """
        runs = self.index()
        oldest = (now - timedelta(days=self._settings.keep_runs_days)).isoformat()
        count: dict[str, int] = {}
        jobs: set[str] = set()
        gone = []
        for run in runs:
            count[run.notebook] = count.get(run.notebook, 0) + 1
            too_many = count[run.notebook] > self._settings.keep_runs
            if (run.started_at < oldest or too_many) and run.job in jobs and self._may_go(run):
                gone.append(run.name)
            jobs.add(run.job)
        for name in gone:
            # The record last: cut off in between, the run is still known and goes the next time.
            for suffix in (".html", ".ipynb", ".json"):
                self.storage.delete(name + suffix)
        return gone

    @staticmethod
    def _may_go(run: Summary) -> bool:
        return run.status != RUNNING and not run.unseen_failure

    def _summary(self, name: str) -> Summary:
        try:
            return summary_of(name, self.record(name))
        except NotebookError as error:
            notebook, date, rest = name.split("/")
            started = f"{date}T{rest[:2]}:{rest[2:4]}:{rest[4:6]}+00:00"
            return Summary(name, notebook, "", started, FAILED, "", str(error), None, False, False)

    def _cached(self) -> dict[str, Summary]:
        try:
            return msgspec.json.decode(self.storage.read(_INDEX), type=dict[str, Summary])
        except FileNotFoundError:
            return {}
        except (msgspec.DecodeError, UnicodeDecodeError):
            log.warning("%s is made anew", self.storage.url(_INDEX))
            return {}

    def _keep(self, summaries: dict[str, Summary]) -> None:
        try:
            self.storage.make("")
            self.storage.write(_INDEX, msgspec.json.encode(summaries).decode())
        except OSError as error:
            log.warning("%s could not be written: %s", self.storage.url(_INDEX), error)


def duration_of(record: Record) -> float | None:
    """How long a run took, or ``None`` while it runs, or when nobody knows when it was killed."""
    if record.finished_at is None or record.error == KILLED:
        return None
    return (datetime.fromisoformat(record.finished_at) - datetime.fromisoformat(record.started_at)).total_seconds()


def summary_of(name: str, record: Record) -> Summary:
    """One run in a line."""
    return Summary(
        name,
        record.notebook,
        record.job,
        record.started_at,
        record.status,
        headline_of(record.results),
        record.error or "",
        duration_of(record),
        record.html,
        record.seen_at is not None,
        record.due_at,
        record.attempt,
    )


def headline_of(results: dict[str, Any]) -> str:
    """What a notebook calls its ``headline``, else its first plain results."""
    if "headline" in results:
        return str(results["headline"])[:_HEADLINE_CHARS]
    plain = [(name, value) for name, value in results.items() if isinstance(value, str | int | float)]
    return ", ".join(f"{name} {_short(value)}" for name, value in plain[:3])[:_HEADLINE_CHARS]


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _encoded(record: Record) -> str:
    return json.dumps(msgspec.to_builtins(record), indent=2, ensure_ascii=False) + "\n"


def _left_elsewhere(name: str, record: Record) -> Path:
    kept = Path(tempfile.gettempdir()) / f"mangalib-{name.replace('/', '-')}.json"
    kept.write_text(_encoded(record), encoding="utf-8")
    return kept


def _mark_failed(storage: Storage, name: str, why: str) -> None:
    """Say at the top of a notebook that was cut off that it was."""
    try:
        notebook = nbformat.reads(storage.read(f"{name}.ipynb"), as_version=4)
    except FileNotFoundError:
        return
    notebook.metadata.setdefault("papermill", {})["exception"] = True
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell(f"**This run did not end.** {why}."))
    storage.write(f"{name}.ipynb", nbformat.writes(notebook))
