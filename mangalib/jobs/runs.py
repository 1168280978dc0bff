"""Where runs are kept: `<notebook>/<UTC date>/<UTC time>-<id>.ipynb`, and beside it the record with the same name and `.json`.

The records are the truth; ``runs.json`` caches their summaries. A record exists from a run's first moment, so that a run that
is killed can be detected later: its record says running, and its lease is free.
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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from mangalib.errors import NotebookError
from mangalib.jobs.leases import Leases, leases_of
from mangalib.jobs.parameters import Job
from mangalib.jobs.records import FAILED, OK, RUNNING, Run, RunRecord, RunSummary, summary_of
from mangalib.settings import AwsSettings, JobSettings, RunSettings
from mangalib.storage import Storage

log = logging.getLogger(__name__)

_RESERVED_BYTES = 4096
_INDEX = "runs.json"
_RECORD = re.compile(r"[^/]+/\d{4}-\d\d-\d\d/\d{6}-\w+\.json")
_ERROR_CHARS = 1000


def open_runs(url: str | Path, settings: JobSettings) -> Runs:
    """The runs in a folder or under ``s3://bucket/prefix``, with the leases that the settings name."""
    folder = RunSettings.model_fields["runs_url"].default if "://" in str(url) else url
    return Runs(url, leases_of(settings, Path(folder) / ".leases"), settings)


class Runs:
    """All runs in a folder or under ``s3://bucket/prefix``; ``leases`` tell a run in progress from one that was killed."""

    def __init__(self, url: str | Path, leases: Leases, settings: AwsSettings) -> None:
        self.storage = Storage(url, settings)
        self.leases = leases

    def begin(self, job: Job, *, name: str | None = None, due_at: str = "", attempt: int = 1) -> Run:
        """Write the record of a run that starts now; raises ``NotebookError`` when nothing can be written there."""
        now = datetime.now(UTC)
        name = name or f"{job.notebook.stem}/{now:%Y-%m-%d}/{now:%H%M%S}-{uuid.uuid4().hex[:6]}"
        record = RunRecord(
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
            self.storage.create_folder(name.rsplit("/", 1)[0])
            # Padded, so that the end of the run can be recorded in place even on a full disk.
            self.storage.write(f"{name}.json", _encoded(record).ljust(_RESERVED_BYTES))
        except OSError as error:
            why = f"{self.storage.url(name)}: the record could not be written: {error}"
            failed = msgspec.structs.replace(record, status=FAILED, error=why, finished_at=now.isoformat())
            raise NotebookError(f"{why}; it is kept in {_keep_locally(name, failed)}") from None
        return Run(name, record)

    def finish(self, run: Run, *, error: str | None, results: dict[str, Any], html: bool = False) -> Run:
        """Record how a run ended; in the temporary folder if the storage cannot be written to."""
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
            why = f"{error or 'the notebook ran'}; its record could not be written: {failure}"
            record = msgspec.structs.replace(record, status=FAILED, error=why)
            self._write_in_place(run.name, record)
        return Run(run.name, record)

    def _write_in_place(self, name: str, record: RunRecord) -> None:
        text = _encoded(msgspec.structs.replace(record, results={}, error=str(record.error)[:_ERROR_CHARS]))
        try:
            with Path(self.storage.url(f"{name}.json")).open("r+b") as file:
                file.write(text.ljust(_RESERVED_BYTES).encode())
        except OSError:
            log.error("%s: the record could not be written; it is kept in %s", name, _keep_locally(name, record))

    def read_record(self, name: str) -> RunRecord:
        """A run's record; raises ``NotebookError`` when there is none, or it cannot be read."""
        try:
            return msgspec.json.decode(self.storage.read(f"{name}.json"), type=RunRecord)
        except FileNotFoundError:
            raise NotebookError(f"no run {name!r}; `mangalib runs` lists them") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise NotebookError(f"{self.storage.url(name)}.json is not a record: {error}") from None

    def acknowledge(self, names: Sequence[str]) -> None:
        """Record that these runs are acknowledged, so that retention may delete them."""
        for name in names:
            record = msgspec.structs.replace(self.read_record(name), seen_at=datetime.now(UTC).isoformat())
            self.storage.write(f"{name}.json", _encoded(record))
        self._write_cache({name: summary for name, summary in self._cached().items() if name not in names})

    def index(self) -> list[RunSummary]:
        """The summaries of all runs, the newest first."""
        cached = self._cached()
        names = [name.removesuffix(".json") for name in self.storage.names() if _RECORD.fullmatch(name)]
        summaries = {name: cached[name] if name in cached else self._summary(name) for name in names}
        finished = {name: summary for name, summary in summaries.items() if summary.status != RUNNING}
        if finished != cached:
            self._write_cache(finished)
        return sorted(summaries.values(), key=lambda summary: (summary.started_at, summary.name), reverse=True)

    def delete(self, name: str) -> None:
        """Delete a run's files, the record last: if that is interrupted, the run is still listed and goes the next time."""
        for suffix in (".html", ".ipynb", ".json"):
            self.storage.delete(name + suffix)

    def _summary(self, name: str) -> RunSummary:
        try:
            return summary_of(name, self.read_record(name))
        except NotebookError as error:
            notebook, date, rest = name.split("/")
            started = f"{date}T{rest[:2]}:{rest[2:4]}:{rest[4:6]}+00:00"
            return RunSummary(name, notebook, "", started, FAILED, "", str(error), None, html=False, seen=False)

    def _cached(self) -> dict[str, RunSummary]:
        try:
            return msgspec.json.decode(self.storage.read(_INDEX), type=dict[str, RunSummary])
        except FileNotFoundError:
            return {}
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("%s is rebuilt from the records: %s", self.storage.url(_INDEX), error)
            return {}

    def _write_cache(self, summaries: dict[str, RunSummary]) -> None:
        try:
            self.storage.create_folder("")
            self.storage.write(_INDEX, msgspec.json.encode(summaries).decode())
        except OSError as error:
            log.warning("%s could not be written: %s", self.storage.url(_INDEX), error)


def _encoded(record: RunRecord) -> str:
    return json.dumps(msgspec.to_builtins(record), indent=2, ensure_ascii=False) + "\n"


def _keep_locally(name: str, record: RunRecord) -> Path:
    path = Path(tempfile.gettempdir()) / f"mangalib-{name.replace('/', '-')}.json"
    path.write_text(_encoded(record), encoding="utf-8")
    return path
