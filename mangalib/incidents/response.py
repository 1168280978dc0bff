"""The response to a verdict with the pagers, tables and releases that the settings name."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from mangalib.aws import DocumentTable, dynamodb_client
from mangalib.benchmark import Verdict
from mangalib.domain import ReleaseStore
from mangalib.errors import ReleaseError
from mangalib.incidents.incidents import Actions, Incident, IncidentStore, respond
from mangalib.incidents.pagers import configured_pagers, sns_client
from mangalib.incidents.rollback import roll_back
from mangalib.settings import IncidentSettings


def respond_to_verdict(verdict: Verdict, settings: IncidentSettings) -> list[Incident]:
    """:func:`respond` with the actions and the incidents table of the settings; returns the incidents."""
    dynamodb = dynamodb_client(settings)
    releases = ReleaseStore(DocumentTable(dynamodb, settings.releases_table, key="release", error=ReleaseError))
    store = IncidentStore(dynamodb, settings.incidents_table)
    return respond(verdict, store, configured_actions(settings, releases, sns_client(settings)))


def configured_actions(settings: IncidentSettings, releases: ReleaseStore, sns: Any) -> Actions:
    """The actions that the settings allow."""
    pages, resolutions = configured_pagers(settings, sns)
    # The first run of a change is known to within a run or two.
    tolerance = timedelta(seconds=2 * settings.benchmark_every_s)
    return Actions(pages, lambda incident: roll_back(incident, releases, tolerance), resolutions)
