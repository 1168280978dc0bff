"""A failed job as an incident: the on-call engineer is paged, and the incident is resolved when the job succeeds again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

from mangalib.benchmark.detection import ALERT
from mangalib.errors import ActionError
from mangalib.incidents import Incident, configured_pagers, sns_client
from mangalib.settings import PagerSettings

log = logging.getLogger(__name__)


def page_failure(job: str, error: str, settings: PagerSettings, now: datetime) -> None:
    """Page the on-call engineer. Repeated failures of one job are one incident; a pager that cannot be reached is logged."""
    pages, _ = configured_pagers(settings, sns_client(settings))
    _act(pages, _incident(job, f"scheduled job {job} failed: {error}", now, resolved=False))


def resolve_failure(job: str, settings: PagerSettings, now: datetime) -> None:
    """Resolve the job's incident, if there is one; a pager that cannot be reached is logged."""
    _, resolutions = configured_pagers(settings, sns_client(settings))
    _act(resolutions, _incident(job, f"scheduled job {job} is OK again", now, resolved=True))


def _act(actions: dict[str, Callable[[Incident], str]], incident: Incident) -> None:
    for name, act in actions.items():
        try:
            log.info("%s: %s", name, act(incident))
        except ActionError as failure:
            log.error("%s: %s", name, failure)


def _incident(job: str, sentence: str, now: datetime, *, resolved: bool) -> Incident:
    return Incident(
        incident=f"job-{job}",
        kind="job",
        severity=ALERT,
        since=now.isoformat(),
        run_started_at=now.isoformat(),
        sentence=sentence,
        affected=[job],
        events=[],
        resolved=resolved,
    )
