"""The schedule: which notebook runs when, with which parameters, and what is done when it fails.

Cron expressions are read as Debian's cron does (cronsim): across a change to or from daylight saving time a job at a fixed hour
runs once a day, and one that runs every few minutes goes on by the clock on the wall of Greenwich.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from cronsim import CronSim, CronSimError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mangalib.errors import NotebookError, ScheduleError
from mangalib.jobs.parameters import NOTEBOOKS, Job, job_of
from mangalib.settings import Settings

DEFAULT = NOTEBOOKS / "schedule.yaml"
_NODES_MAX = 10_000


class Entry(BaseModel):
    """One job as the schedule has it; ``notebook`` is a name or a path beside the schedule."""

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
        """The times at which it is due after ``moment``, in UTC."""
        for due in CronSim(self.cron, moment.astimezone(ZoneInfo(self.time_zone))):
            yield due.astimezone(UTC)

    def last_due(self, moment: datetime) -> datetime:
        """The last time at which it was due, ``moment`` included, in UTC."""
        # By whole minutes, backwards from just after.
        local = moment.astimezone(ZoneInfo(self.time_zone))
        for due in CronSim(self.cron, local, reverse=True):
            found = due.astimezone(UTC)
            on_time = next(self.due_after(found))
            return on_time if on_time <= moment else found
        raise ScheduleError(f"job {self.name}: {self.cron!r} is never due")


class Schedule:
    """The jobs of a file, in its order."""

    def __init__(self, entries: list[Entry], path: Path, settings: Settings) -> None:
        self.entries = entries
        self.path = path
        self._settings = settings

    def job(self, entry: Entry) -> Job:
        """What an entry runs; raises ``NotebookError`` when its notebook is gone or takes other parameters by now."""
        source = self._source(entry)
        timeout_s = entry.timeout_s or self._settings.job_timeout_s
        return job_of(source, entry.parameters, timeout_s=timeout_s, name=entry.name, html=entry.html)

    def entry(self, name: str) -> Entry:
        """One by its name; raises ``ScheduleError`` listing what there is."""
        for entry in self.entries:
            if entry.name == name:
                return entry
        known = ", ".join(entry.name for entry in self.entries)
        raise ScheduleError(f"{self.path}: no job {name!r}; there are: {known}")

    def _source(self, entry: Entry) -> Path:
        folder = self.path.resolve().parent
        for candidate in (folder / f"{entry.notebook}.ipynb", folder / entry.notebook):
            if candidate.is_file():
                return candidate
        return folder / f"{entry.notebook.removesuffix('.ipynb')}.ipynb"


def read_schedule(path: Path, settings: Settings) -> Schedule:
    """Read and check a schedule, each notebook's parameters included.

    Raises ``ScheduleError`` naming the line, the value and what was expected, of everything that is wrong.
    """
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise ScheduleError(f"{path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ScheduleError(f"{path}: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ScheduleError(f"{path}: nested too deeply; expected jobs, a list of jobs") from None
    if root is not None and _size(root, {}) > _NODES_MAX:
        raise ScheduleError(f"{path}: anchors that make more than {_NODES_MAX} values of it; expected a list of jobs")
    if not isinstance(root, yaml.MappingNode) or [key.value for key, _ in root.value] != ["jobs"]:
        raise ScheduleError(f"{path} line 1: expected one key, jobs, with a list of jobs")
    listed = root.value[0][1]
    if not isinstance(listed, yaml.SequenceNode) or not listed.value:
        raise ScheduleError(f"{path} line {_line(listed)}: jobs: expected a list of jobs")
    entries, wrong = [], []
    for node in listed.value:
        try:
            entries.append(Entry.model_validate(_plain(node, path)))
        except ValidationError as error:
            wrong += [_said(node, path, found) for found in error.errors()]
    wrong += _twice(listed, path)
    schedule = Schedule(entries, path, settings)
    if not wrong:
        wrong = [
            line for entry, node in zip(entries, listed.value, strict=True) for line in _unfit(schedule, entry, node)
        ]
    if wrong:
        raise ScheduleError("\n".join(wrong))
    return schedule


def _plain(node: yaml.Node, path: Path) -> Any:
    try:
        return yaml.SafeLoader("").construct_document(node)
    # A value that is not what its tag says (`!!int x`, 2024-13-45) is PyYAML's ValueError, or whatever it stumbles over.
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise ScheduleError(f"{path} line {_line(node)}: {' '.join(str(error).split())}") from None


def _size(node: yaml.Node, known: dict[int, float]) -> float:
    """How many values a node stands for, each alias counted as what it names; one that contains itself is without end."""
    if id(node) not in known:
        known[id(node)] = float("inf")
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        pairs = [child if isinstance(child, tuple) else (child,) for child in children]
        known[id(node)] = 1 + sum(_size(part, known) for pair in pairs for part in pair)
    return known[id(node)]


def _said(node: yaml.Node, path: Path, found: Any) -> str:
    at, field = node, [str(part) for part in found["loc"]]
    for part in found["loc"]:
        if isinstance(at, yaml.MappingNode):
            at = next((value for key, value in at.value if key.value == str(part)), at)
    value = "" if found["type"] == "missing" else f"={found['input']!r}"
    known = f"; there are: {', '.join(Entry.model_fields)}" if found["type"] == "extra_forbidden" else ""
    said = {"extra_forbidden": "there is no such field", "missing": "is missing"}.get(found["type"], found["msg"])
    return f"{path} line {_line(at)}: {'.'.join(field) or 'job'}{value}: {said.removeprefix('Value error, ')}{known}"


def _twice(listed: yaml.SequenceNode, path: Path) -> list[str]:
    lines: dict[str, int] = {}
    wrong = []
    for node in listed.value:
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.value == "name" and isinstance(value, yaml.ScalarNode):
                if value.value in lines:
                    wrong.append(
                        f"{path} line {_line(value)}: name={value.value!r}: is taken by line {lines[value.value]}"
                    )
                lines.setdefault(value.value, _line(value))
    return wrong


def _unfit(schedule: Schedule, entry: Entry, node: yaml.Node) -> list[str]:
    try:
        schedule.job(entry)
    except NotebookError as error:
        fields = {key.value: key for key, _ in node.value} if isinstance(node, yaml.MappingNode) else {}
        at = fields.get("parameters" if entry.parameters and "parameter" in str(error) else "notebook", node)
        return [f"{schedule.path} line {_line(at)}: {error}"]
    return []


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
