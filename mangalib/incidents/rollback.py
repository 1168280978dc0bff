"""Rollback: take back the release under which an incident began."""

from __future__ import annotations

from datetime import datetime, timedelta

from mangalib.domain import ReleaseStore
from mangalib.errors import ActionError, ReleaseError
from mangalib.incidents.incidents import Incident


def roll_back(incident: Incident, releases: ReleaseStore, tolerance: timedelta) -> str:
    """Take back the newest release; returns what was done.

    Nothing is taken back when that release became active after the judged run, or when the incident began more than
    ``tolerance`` before the release that answered the run. Raises ``ActionError`` when a rollback is due and fails.
    """
    try:
        pointer = releases.pointer()
        if not pointer.activations:
            raise ActionError("rollback: no release has been activated; expected at least one")
        newest = pointer.activations[-1]
        activated, run = datetime.fromisoformat(newest.at), datetime.fromisoformat(incident.run_started_at)
        if activated > run:
            return f"not rolled back: release {newest.release} became active after the run, at {newest.at}"
        earlier = [activation for activation in pointer.activations if datetime.fromisoformat(activation.at) <= run]
        if earlier and datetime.fromisoformat(incident.since) + tolerance < datetime.fromisoformat(earlier[-1].at):
            return (
                f"not rolled back: the regression began before release {newest.release} became active, at {newest.at}"
            )
        taken_back, active = releases.rollback(f"{incident.incident}: {incident.sentence}", bad=newest.release)
    except ReleaseError as error:
        raise ActionError(str(error)) from None
    return f"release {taken_back} taken back, release {active.number} is active again"
