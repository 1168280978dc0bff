"""What is known of a run: its full record, and the summary of it that the index lists."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

RUNNING, OK, FAILED = "running", "ok", "failed"
KILLED = "killed: its process died before it could record the result"
_HEADLINE_CHARS = 160


class RunRecord(msgspec.Struct, frozen=True):
    """A run's result record. ``attempt`` counts from 1; ``due_at`` is empty for a run that was not scheduled."""

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

    @property
    def duration_s(self) -> float | None:
        """How long the run took; ``None`` while it runs, and for one that was killed, as its end is not known."""
        if self.finished_at is None or (self.error or "").startswith("killed:"):
            return None
        return (datetime.fromisoformat(self.finished_at) - datetime.fromisoformat(self.started_at)).total_seconds()


class Run(msgspec.Struct, frozen=True):
    """A run's name and record."""

    name: str
    record: RunRecord

    @property
    def ok(self) -> bool:
        """Whether every cell ran without an error."""
        return self.record.status == OK


class RunSummary(msgspec.Struct, frozen=True):
    """A line of the index. ``name`` is that of the run's files without their suffixes."""

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
    def unacknowledged(self) -> bool:
        """Whether it failed and the failure is not acknowledged."""
        return self.status == FAILED and not self.seen


def summary_of(name: str, record: RunRecord) -> RunSummary:
    """The index's line for a run."""
    return RunSummary(
        name=name,
        notebook=record.notebook,
        job=record.job,
        started_at=record.started_at,
        status=record.status,
        headline=headline_of(record.results),
        error=record.error or "",
        duration_s=record.duration_s,
        html=record.html,
        seen=record.seen_at is not None,
        due_at=record.due_at,
        attempt=record.attempt,
    )


def headline_of(results: dict[str, Any]) -> str:
    """The result called ``headline``, else the first three that are numbers or text."""
    if "headline" in results:
        return str(results["headline"])[:_HEADLINE_CHARS]
    plain = [(name, value) for name, value in results.items() if isinstance(value, str | int | float)]
    return ", ".join(f"{name} {_short(value)}" for name, value in plain[:3])[:_HEADLINE_CHARS]


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
