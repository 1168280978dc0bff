"""The schedule: which notebook runs when, with which parameters, and what happens when it fails.

Cron expressions are read as Debian's cron reads them (cronsim). Where daylight saving time begins or ends, a job at a fixed hour
runs once that day, and a job that runs every few minutes keeps its interval.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from cronsim import CronSim, CronSimError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mangalib.errors import NotebookError, ScheduleError
from mangalib.jobs.parameters import Job, job_of
from mangalib.settings import ScheduleSettings


class Entry(BaseModel):
    """One job of the schedule. ``notebook`` is a name, or a path relative to the schedule's folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,60}$")
    notebook: str
    cron: str
    time_zone: str = "UTC"
    parameters: dict[str, Any] = {}
    timeout_s: float | None = Field(default=None, gt=0)
    retries: int = Field(default=0, ge=0, le=10)
    on_failure: Literal["log", "page"] = "log"
    html: bool = False

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, value: str) -> str:
        try:
            CronSim(value, datetime(2026, 1, 1, tzinfo=UTC))
        except CronSimError as error:
            raise ValueError(f"{error}; expected five fields, as in */15 * * * *") from None
        return value

    @field_validator("time_zone")
    @classmethod
    def _is_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):  # Asia alone is a folder of the zones' files
            raise ValueError("expected a name as in Asia/Tokyo") from None
        return value

    def due_after(self, moment: datetime) -> Iterator[datetime]:
        """The due times after ``moment``, in UTC."""
        for due in CronSim(self.cron, moment.astimezone(ZoneInfo(self.time_zone))):
            yield due.astimezone(UTC)

    def last_due(self, moment: datetime) -> datetime:
        """The last due time up to and including ``moment``, in UTC."""
        local = moment.astimezone(ZoneInfo(self.time_zone))
        for due in CronSim(self.cron, local, reverse=True):
            before = due.astimezone(UTC)
            # Going backwards, CronSim skips the minute of ``moment``.
            following = next(self.due_after(before))
            return following if following <= moment else before
        raise ScheduleError(f"job {self.name}: cron={self.cron!r}: is never due")


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")

    jobs: list[Entry] = Field(min_length=1)


class Schedule:
    """The jobs of a schedule file, in its order."""

    def __init__(self, entries: list[Entry], path: Path, settings: ScheduleSettings) -> None:
        self.entries = entries
        self.path = path
        self._settings = settings

    def entry(self, name: str) -> Entry:
        """The entry of that name; raises ``ScheduleError`` listing the names there are."""
        for entry in self.entries:
            if entry.name == name:
                return entry
        known = ", ".join(entry.name for entry in self.entries)
        raise ScheduleError(f"{self.path}: no job {name!r}; there are: {known}")

    def job(self, entry: Entry) -> Job:
        """The job that an entry describes; raises ``NotebookError`` when its notebook is missing or has other parameters."""
        timeout_s = entry.timeout_s or self._settings.job_timeout_s
        source = self._source(entry.notebook)
        return job_of(source, entry.parameters, timeout_s=timeout_s, name=entry.name, html=entry.html)

    def _source(self, notebook: str) -> Path:
        path = self.path.resolve().parent / notebook
        return path if path.suffix == ".ipynb" else path.with_name(f"{path.name}.ipynb")


def read_schedule(path: Path, settings: ScheduleSettings) -> Schedule:
    """Read and check a schedule, including each notebook's parameters.

    Raises ``ScheduleError`` with a line for each mistake: the file, the job, the field, its value and what was expected.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ScheduleError(f"{path}: {error.strerror or error}") from None
    except (yaml.YAMLError, ValueError) as error:  # a date such as 2024-13-45 is a ValueError
        raise ScheduleError(f"{path}: {' '.join(str(error).split())}") from None
    try:
        schedule = Schedule(_Document.model_validate(content).jobs, path, settings)
    except ValidationError as error:
        raise ScheduleError("\n".join(f"{path}{_described(mistake, content)}" for mistake in error.errors())) from None
    counts = Counter(entry.name for entry in schedule.entries)
    wrong = [f"{path}, job {name!r}: name: is used {count} times" for name, count in counts.items() if count > 1]
    for entry in schedule.entries:
        try:
            schedule.job(entry)
        except NotebookError as error:
            wrong.append(f"{path}, job {entry.name!r}: {error}")
    if wrong:
        raise ScheduleError("\n".join(wrong))
    return schedule


def _described(mistake: Any, content: Any) -> str:
    """One of pydantic's errors: the job, the field, the value and what was expected."""
    if len(mistake["loc"]) < 2:
        return ": expected one key, jobs, with a list of jobs"
    _, number, *field = mistake["loc"]
    job = content["jobs"][number]
    name = job.get("name") if isinstance(job, dict) else None
    where = f", job {name!r}" if isinstance(name, str) else f", job {number + 1}"
    value = "" if mistake["type"] == "missing" else f"={mistake['input']!r}"
    known = f"unknown field; expected one of {', '.join(Entry.model_fields)}"
    expected = {"extra_forbidden": known, "missing": "is missing"}.get(mistake["type"], mistake["msg"])
    return f"{where}: {'.'.join(map(str, field)) or 'job'}{value}: {expected.removeprefix('Value error, ')}"
