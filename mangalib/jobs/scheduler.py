"""The clock's hand: runs each job when it is due, one at a time, so that no notebook's measurement disturbs another's.

More machines share a schedule by sharing leases; then as many run at once. A job that was missed, however often, is caught up
once. What has been taken is noted with the job's lease before it starts: killed at any moment, nothing runs twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from mangalib.benchmark.detection import ALERT
from mangalib.errors import ActionError, NotebookError
from mangalib.incidents import Incident, pages_of, sns_client
from mangalib.jobs.execute import run_under_lease
from mangalib.jobs.index_page import write_page
from mangalib.jobs.leases import Lease, ScheduleCursor, kept
from mangalib.jobs.parameters import Job
from mangalib.jobs.runs import FAILED, Run, Runs
from mangalib.jobs.schedule import Entry, Schedule
from mangalib.settings import Settings

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 30.0
_TRY_AGAIN_S = 60.0


class Clock(Protocol):
    """What time it is, and waiting."""

    def now(self) -> datetime:
        """The moment, in UTC."""

    def sleep_until(self, moment: datetime) -> None:
        """Return at that moment, or somewhat earlier."""


class WallClock:
    """The machine's own."""

    def now(self) -> datetime:
        """The moment, in UTC."""
        return datetime.now(UTC)

    def sleep_until(self, moment: datetime) -> None:
        """Return at that moment, or somewhat earlier: the wall's clock may be set meanwhile."""
        time.sleep(min(_LOOK_EVERY_S, max(0.0, (moment - self.now()).total_seconds())))


class Scheduler:
    """Use :meth:`run_forever`, or :meth:`run_due` again and again; ``say`` is told of each run."""

    def __init__(
        self, schedule: Schedule, runs: Runs, settings: Settings, *, clock: Clock, say: Callable[[Run], object]
    ) -> None:
        self._schedule = schedule
        self._runs = runs
        self._settings = settings
        self._clock = clock
        self._say = say
        # Jobs that could not even start when they were due.
        self.failed_to_start: set[str] = set()

    def run_forever(self, until: datetime | None = None) -> None:
        """Run what is due whenever it is due, until interrupted or ``until``."""
        self.reap_orphans()
        self._take_charge()
        while until is None or self._clock.now() < until:
            if not self.run_due():
                now = self._clock.now()
                coming = [next(entry.due_after(now)) for entry in self._schedule.entries]
                if self.failed_to_start:
                    coming.append(now + timedelta(seconds=_TRY_AGAIN_S))
                self._clock.sleep_until(min(coming if until is None else [*coming, until]))

    def reap_orphans(self) -> None:
        """Mark runs that were killed as failed, and say so."""
        for killed in self._runs.reap_orphans():
            self._end(killed)

    def run_due(self, *, also_new: bool = False, only: Entry | None = None) -> list[Run]:
        """Run each job that is due by now, once; with ``also_new`` also those that have never run."""
        done = []
        for entry in [only] if only else self._schedule.entries:
            try:
                run = self._run_if_due(entry, also_new)
            except NotebookError as error:
                self._in_trouble(entry, error)
                continue
            self.failed_to_start.discard(entry.name)
            if run is not None:
                done.append(run)
                self._end(run)
        return done

    def _take_charge(self) -> None:
        """What was due before anybody kept this schedule was not missed; from now on it is."""
        for entry in self._schedule.entries:
            lease = self._runs.leases.take(entry.name)
            if lease is not None:
                with kept(lease, self._settings.job_lease_s):
                    if not lease.cursor.due_at:
                        lease.write(ScheduleCursor(entry.last_due(self._clock.now()).isoformat()))

    def _run_if_due(self, entry: Entry, also_new: bool) -> Run | None:
        due_at = entry.last_due(self._clock.now()).isoformat()
        if not _is_to_run(entry, due_at, self._runs.leases.cursor(entry.name), also_new):
            return None
        lease = self._runs.leases.take(entry.name)
        if lease is None:
            log.info("%s runs elsewhere", entry.name)
            return None
        with kept(lease, self._settings.job_lease_s) as lost:
            # Another may have run it between the look and the lease.
            if not _is_to_run(entry, due_at, lease.cursor, also_new):
                return None
            return self._attempts(entry, due_at, lease, lost)

    def _attempts(self, entry: Entry, due_at: str, lease: Lease, lost: threading.Event) -> Run:
        first = lease.cursor.attempts + 1 if lease.cursor.due_at == due_at else 1
        for attempt in range(first, entry.retries + 2):
            lease.write(ScheduleCursor(due_at, attempt))
            run = self._attempt(entry, due_at, attempt, lost)
            if run.ok:
                break
            log.warning("%s, attempt %d of %d: %s", entry.name, attempt, entry.retries + 1, run.record.error)
        lease.write(ScheduleCursor(due_at))
        return run

    def _attempt(self, entry: Entry, due_at: str, attempt: int, lost: threading.Event) -> Run:
        try:
            job = self._schedule.job(entry)
        except NotebookError as error:
            unfit = Job(Path(entry.notebook), entry.parameters, entry.name, self._settings.job_timeout_s)
            started = self._runs.begin(unfit, due_at=due_at, attempt=attempt)
            return self._runs.finish(started, error=str(error), results={})
        return run_under_lease(job, self._runs, self._settings, lost, due_at=due_at, attempt=attempt)

    def _end(self, run: Run) -> None:
        self._say(run)
        self._page(run.record.job, run.record.error if run.record.status == FAILED else None)
        self._runs.prune(self._clock.now())
        write_page(self._runs)

    def _in_trouble(self, entry: Entry, error: NotebookError) -> None:
        """Not even started: tried again in a while, and told once."""
        log.error("%s could not start: %s", entry.name, error)
        if entry.name not in self.failed_to_start:
            self.failed_to_start.add(entry.name)
            self._page(entry.name, f"could not start: {error}")

    def _page(self, job: str, error: str | None) -> None:
        entry = next((entry for entry in self._schedule.entries if entry.name == job), None)
        if entry is None or entry.on_failure != "page":
            return
        pages, resolved = pages_of(self._settings, sns_client(self._settings))
        incident = _incident(job, error, self._clock.now())
        for name, act in (resolved if error is None else pages).items():
            try:
                log.info("%s: %s", name, act(incident))
            except ActionError as failure:
                log.error("%s: %s", name, failure)


def _is_to_run(entry: Entry, due_at: str, cursor: ScheduleCursor, also_new: bool) -> bool:
    if not cursor.due_at:
        return also_new
    # Taken already, but whoever took it may have been killed with attempts left.
    return due_at > cursor.due_at or (due_at == cursor.due_at and 0 < cursor.attempts <= entry.retries)


def _incident(job: str, error: str | None, now: datetime) -> Incident:
    """A failed job in the form in which people are paged; the same job is the same incident until it is well again."""
    return Incident(
        incident=f"job-{job}",
        kind="job",
        severity=ALERT,
        since=now.isoformat(),
        run_started_at=now.isoformat(),
        sentence=f"scheduled job {job} failed: {error}" if error else f"scheduled job {job} is well again",
        affected=[job],
        events=[],
        resolved=error is None,
    )
