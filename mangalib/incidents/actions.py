"""What is done about an incident: PagerDuty, SNS, and taking a release back."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import boto3
import urllib3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from mangalib.aws import DocumentTable, dynamodb_client
from mangalib.benchmark import Verdict
from mangalib.benchmark.detection import CRITICAL, NAMES
from mangalib.domain import ReleaseStore
from mangalib.errors import ActionError, ReleaseError, SettingsError
from mangalib.incidents.incidents import Act, Actions, Incident, IncidentStore, act
from mangalib.settings import PagerSettings, Settings

_SUMMARY_CHARS = 1024
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def sns_client(settings: PagerSettings) -> Any:
    """A client of SNS that does not keep an incident waiting for long."""
    config = Config(
        connect_timeout=settings.page_timeout_s,
        read_timeout=settings.page_timeout_s,
        retries={"total_max_attempts": settings.page_attempts, "mode": "standard"},
    )
    return boto3.Session(region_name=settings.region).client("sns", endpoint_url=settings.aws_url, config=config)


def act_on(verdict: Verdict, settings: Settings) -> list[Incident]:
    """Do what a verdict asks for, by the actions that the settings allow; returns the incidents. See :func:`incidents.act`."""
    dynamodb = dynamodb_client(settings)
    releases = ReleaseStore(DocumentTable(dynamodb, settings.releases_table, key="release", error=ReleaseError))
    known = IncidentStore(dynamodb, settings.incidents_table)
    return act(verdict, known, actions_of(settings, releases, sns_client(settings)))


def actions_of(settings: Settings, releases: ReleaseStore, sns: Any) -> Actions:
    """The actions that the settings allow."""
    pages, resolved = pages_of(settings, sns)
    # The first run of a change is known to a run or two.
    slack = timedelta(seconds=2 * settings.benchmark_every_s)
    return Actions(pages, lambda incident: roll_back(incident, releases, slack), resolved)


def pages_of(settings: PagerSettings, sns: Any) -> tuple[dict[str, Act], dict[str, Act]]:
    """How somebody is paged, and told that it is over: by PagerDuty where there is a routing key, by SNS where there is a
    topic."""
    pages: dict[str, Act] = {}
    resolved: dict[str, Act] = {}
    if settings.pagerduty_routing_key is not None:
        pager = PagerDuty(settings)
        pages["pagerduty"], resolved["pagerduty"] = pager.trigger, pager.resolve
    if settings.sns_topic_arn is not None:
        pages["sns"] = Topic(sns, settings.sns_topic_arn).publish
    return pages, resolved


class PagerDuty:
    """Events API v2. A time-out, a 429 and a 5xx are tried again, with back-off; the incident's key makes that harmless."""

    def __init__(self, settings: PagerSettings) -> None:
        assert settings.pagerduty_routing_key is not None
        parts = urlsplit(settings.pagerduty_url)
        if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
            raise SettingsError(f"MANGA_PAGERDUTY_URL={settings.pagerduty_url!r}: expected https")
        self._url = settings.pagerduty_url
        self._key = settings.pagerduty_routing_key.get_secret_value()
        retry = urllib3.Retry(
            total=settings.page_attempts - 1,
            backoff_factor=settings.page_backoff_s,
            backoff_jitter=settings.page_backoff_s,
            status_forcelist=(429, 500, 502, 503, 504),
            allowed_methods=("POST",),
            raise_on_status=False,
        )
        self._http = urllib3.PoolManager(timeout=settings.page_timeout_s, retries=retry)

    def trigger(self, incident: Incident) -> str:
        """Page whoever is on call."""
        rolled_back = incident.actions.get("rollback")
        payload = {
            "summary": incident.sentence[:_SUMMARY_CHARS],
            "source": "MangaAssist benchmark",
            "severity": "critical" if incident.severity >= CRITICAL else "error",
            "timestamp": incident.since,
            "component": "streaming",
            "group": "MangaAssist",
            "class": NAMES[incident.severity],
            "custom_details": {
                "affected": incident.affected,
                "run": incident.last_run,
                "rollback": rolled_back.detail if rolled_back else "none",
            },
        }
        return self._send("trigger", incident, {"payload": payload})

    def resolve(self, incident: Incident) -> str:
        """Tell PagerDuty that it is over; nobody is woken."""
        return self._send("resolve", incident, {})

    def _send(self, event_action: str, incident: Incident, more: dict[str, Any]) -> str:
        body = {"routing_key": self._key, "event_action": event_action, "dedup_key": incident.dedup_key, **more}
        try:
            answer = self._http.request(
                "POST", self._url, body=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
            )
        except urllib3.exceptions.HTTPError as error:
            raise ActionError(f"PagerDuty could not be reached: {type(error).__name__}") from None
        if answer.status != 202:
            raise ActionError(f"PagerDuty answered {answer.status}: {answer.data[:200].decode('utf-8', 'replace')}")
        return f"{event_action} accepted"


class Topic:
    """An SNS topic, for who is paged by mail or message instead of PagerDuty, or as well; ``sns`` is a boto3 client."""

    def __init__(self, sns: Any, topic_arn: str) -> None:
        self._sns = sns
        self._topic = topic_arn

    def publish(self, incident: Incident) -> str:
        """Send the incident's sentence to all who subscribed."""
        rolled_back = incident.actions.get("rollback")
        text = incident.sentence + (f"\n\nRollback: {rolled_back.detail}" if rolled_back else "")
        subject = f"{NAMES[incident.severity]} MangaAssist: {incident.kind}"
        attributes = {"severity": {"DataType": "String", "StringValue": NAMES[incident.severity]}}
        try:
            answer = self._sns.publish(
                TopicArn=self._topic, Subject=subject, Message=text, MessageAttributes=attributes
            )
        except (ClientError, BotoCoreError) as error:
            raise ActionError(f"SNS: {error}") from None
        return f"published as {answer['MessageId']}"


def roll_back(incident: Incident, releases: ReleaseStore, slack: timedelta) -> str:
    """Take the release back under which it got worse, unless another is active by now, or it got worse more than ``slack``
    before that release; raises ``ActionError`` when it cannot be done."""
    try:
        pointer = releases.pointer()
        if not pointer.activations:
            raise ActionError("nothing was released, so there is nothing to take back")
        newest = pointer.activations[-1]
        activated, run = datetime.fromisoformat(newest.at), datetime.fromisoformat(incident.run_started_at)
        if activated > run:
            return f"not rolled back: release {newest.release} became active after the run, at {newest.at}"
        before = [past for past in pointer.activations if datetime.fromisoformat(past.at) <= run]
        if before and datetime.fromisoformat(incident.since) + slack < datetime.fromisoformat(before[-1].at):
            return f"not rolled back: it got worse before release {newest.release} became active, at {newest.at}"
        taken_back, active = releases.rollback(f"{incident.incident}: {incident.sentence}", bad=newest.release)
    except ReleaseError as error:
        raise ActionError(str(error)) from None
    return f"release {taken_back} taken back, release {active.number} is active again"
