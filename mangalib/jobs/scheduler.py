"""Runs each job when it is due, one at a time, so that no notebook disturbs another's measurement.

Several machines share a schedule by sharing leases; each runs one job at a time. A job that missed due times, however many, is
caught up with one run. The schedule cursor is stored with the job's lease before a run starts, so that nothing runs twice even
if the process is killed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from mangalib.errors import NotebookError
from mangalib.jobs.clock import Clock
from mangalib.jobs.execute import run_under_lease
from mangalib.jobs.index_page import write_page
from mangalib.jobs.job_incident import page_failure, resolve_failure
from mangalib.jobs.leases import Lease, ScheduleCursor, keep_renewed
from mangalib.jobs.orphans import reap_orphans
from mangalib.jobs.parameters import Job
from mangalib.jobs.records import FAILED, Run
from mangalib.jobs.retention import prune
from mangalib.jobs.runs import Runs
from mangalib.jobs.schedule import Entry, Schedule
from mangalib.settings import JobSettings

log = logging.getLogger(__name__)

_RETRY_START_S = 60.0


class Scheduler:
    """Use :meth:`run_forever`, or call :meth:`run_due` repeatedly; ``on_finished`` is called with each run.

    ``failed_to_start`` has the names of the jobs whose last attempt to start failed.
    """

    def __init__(
        self,
        schedule: Schedule,
        runs: Runs,
        settings: JobSettings,
        *,
        clock: Clock,
        on_finished: Callable[[Run], object],
    ) -> None:
        self._schedule = schedule
        self._runs = runs
        self._settings = settings
        self._clock = clock
        self._on_finished = on_finished
        self.failed_to_start: set[str] = set()

    def run_forever(self, until: datetime | None = None) -> None:
        """Run each job when it is due, until interrupted or ``until``."""
        self.reap_orphans()
        self._adopt_new_jobs()
        while until is None or self._clock.now() < until:
            if not self.run_due():
                now = self._clock.now()
                wake_at = [next(entry.due_after(now)) for entry in self._schedule.entries]
                if self.failed_to_start:
                    wake_at.append(now + timedelta(seconds=_RETRY_START_S))
                self._clock.sleep_until(min(wake_at if until is None else [*wake_at, until]))

    def reap_orphans(self) -> None:
        """Mark runs that were killed as failed, and treat them as such."""
        for killed in reap_orphans(self._runs):
            self._finish(killed)

    def run_due(self, *, also_new: bool = False, only: Entry | None = None) -> list[Run]:
        """Run each job that is due, once; with ``also_new`` also those that have never run."""
        finished = []
        for entry in [only] if only else self._schedule.entries:
            try:
                run = self._run_if_due(entry, also_new)
            except NotebookError as error:
                self._fail_to_start(entry, error)
                continue
            self.failed_to_start.discard(entry.name)
            if run is not None:
                finished.append(run)
                self._finish(run)
        return finished

    def _adopt_new_jobs(self) -> None:
        """Due times before a job was first scheduled do not count as missed."""
        for entry in self._schedule.entries:
            lease = self._runs.leases.take(entry.name)
            if lease is not None:
                with keep_renewed(lease, self._settings.job_lease_s):
                    if not lease.cursor.due_at:
                        lease.write(ScheduleCursor(entry.last_due(self._clock.now()).isoformat()))

    def _run_if_due(self, entry: Entry, also_new: bool) -> Run | None:
        due_at = entry.last_due(self._clock.now()).isoformat()
        if not _is_due(entry, due_at, self._runs.leases.cursor(entry.name), also_new):
            return None
        lease = self._runs.leases.take(entry.name)
        if lease is None:
            log.info("%s is running in another process", entry.name)
            return None
        with keep_renewed(lease, self._settings.job_lease_s) as lost:
            # Another process may have run it before the lease was taken.
            if not _is_due(entry, due_at, lease.cursor, also_new):
                return None
            return self._run_with_retries(entry, due_at, lease, lost)

    def _run_with_retries(self, entry: Entry, due_at: str, lease: Lease, lost: threading.Event) -> Run:
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
            # Its notebook has changed since the schedule was read.
            invalid = Job(Path(entry.notebook), entry.parameters, entry.name, self._settings.job_timeout_s)
            started = self._runs.begin(invalid, due_at=due_at, attempt=attempt)
            return self._runs.finish(started, error=str(error), results={})
        return run_under_lease(job, self._runs, self._settings, lost, due_at=due_at, attempt=attempt)

    def _finish(self, run: Run) -> None:
        self._on_finished(run)
        self._page(run.record.job, run.record.error if run.record.status == FAILED else None)
        prune(self._runs, self._settings, self._clock.now())
        write_page(self._runs)

    def _fail_to_start(self, entry: Entry, error: NotebookError) -> None:
        log.error("%s could not start: %s", entry.name, error)
        if entry.name not in self.failed_to_start:
            self.failed_to_start.add(entry.name)
            self._page(entry.name, f"could not start: {error}")

    def _page(self, job: str, error: str | None) -> None:
        if not any(entry.name == job and entry.on_failure == "page" for entry in self._schedule.entries):
            return
        if error is None:
            resolve_failure(job, self._settings, self._clock.now())
        else:
            page_failure(job, error, self._settings, self._clock.now())


def _is_due(entry: Entry, due_at: str, cursor: ScheduleCursor, also_new: bool) -> bool:
    if not cursor.due_at:
        return also_new
    # Started before, but the process may have been killed with attempts left.
    return due_at > cursor.due_at or (due_at == cursor.due_at and 0 < cursor.attempts <= entry.retries)
