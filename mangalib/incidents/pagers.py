"""Pagers: PagerDuty and SNS."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

import boto3
import urllib3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from mangalib.benchmark.detection import CRITICAL, NAMES
from mangalib.errors import ActionError, SettingsError
from mangalib.incidents.incidents import ActionFunction, Incident
from mangalib.settings import PagerSettings

_SUMMARY_CHARS = 1024
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def sns_client(settings: PagerSettings) -> Any:
    """A boto3 client for SNS with the settings' time-out and attempts."""
    config = Config(
        connect_timeout=settings.page_timeout_s,
        read_timeout=settings.page_timeout_s,
        retries={"total_max_attempts": settings.page_attempts, "mode": "standard"},
    )
    return boto3.Session(region_name=settings.region).client("sns", endpoint_url=settings.aws_url, config=config)


def configured_pagers(settings: PagerSettings, sns: Any) -> tuple[dict[str, ActionFunction], dict[str, ActionFunction]]:
    """The functions that page and those that resolve, by pager: PagerDuty where there is a routing key, SNS where there is a
    topic. SNS has nothing to resolve."""
    pages: dict[str, ActionFunction] = {}
    resolutions: dict[str, ActionFunction] = {}
    if settings.pagerduty_routing_key is not None:
        pager = PagerDuty(settings)
        pages["pagerduty"], resolutions["pagerduty"] = pager.trigger, pager.resolve
    if settings.sns_topic_arn is not None:
        pages["sns"] = SnsPager(sns, settings.sns_topic_arn).publish
    return pages, resolutions


class PagerDuty:
    """PagerDuty's Events API v2. Time-outs, 429 and 5xx are retried with back-off; the incident's key makes events idempotent."""

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
        """Page the on-call engineer."""
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
        """Resolve the incident in PagerDuty, which sends no page."""
        return self._send("resolve", incident, {})

    def _send(self, event_action: str, incident: Incident, fields: dict[str, Any]) -> str:
        body = {"routing_key": self._key, "event_action": event_action, "dedup_key": incident.dedup_key, **fields}
        try:
            response = self._http.request(
                "POST", self._url, body=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
            )
        except urllib3.exceptions.HTTPError as error:
            raise ActionError(f"PagerDuty could not be reached: {type(error).__name__}") from None
        if response.status != 202:
            raise ActionError(f"PagerDuty answered {response.status}: {response.data[:200].decode('utf-8', 'replace')}")
        return f"{event_action} accepted"


class SnsPager:
    """An SNS topic whose subscribers are paged by mail or message; ``sns`` is a boto3 client."""

    def __init__(self, sns: Any, topic_arn: str) -> None:
        self._sns = sns
        self._topic = topic_arn

    def publish(self, incident: Incident) -> str:
        """Publish the incident's sentence to the topic; raises ``ActionError`` when SNS refuses it or cannot be reached."""
        rolled_back = incident.actions.get("rollback")
        text = incident.sentence + (f"\n\nRollback: {rolled_back.detail}" if rolled_back else "")
        subject = f"{NAMES[incident.severity]} MangaAssist: {incident.kind}"
        attributes = {"severity": {"DataType": "String", "StringValue": NAMES[incident.severity]}}
        try:
            response = self._sns.publish(
                TopicArn=self._topic, Subject=subject, Message=text, MessageAttributes=attributes
            )
        except (ClientError, BotoCoreError) as error:
            raise ActionError(f"SNS: {error}") from None
        return f"published as {response['MessageId']}"
