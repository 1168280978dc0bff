"""What an AWS account and the settings lack before the laboratory can run there, each with what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from mangalib.settings import AccountSettings, TableSettings

_MESSAGE_CHARS = 120


@dataclass(frozen=True)
class Requirement:
    """One requirement: its name, whether it is met, and what was found or what to do. The fields are those of ``--json``."""

    what: str
    ok: bool
    said: str


def check_account(settings: AccountSettings) -> Iterator[Requirement]:
    """Check one requirement after the other; changes nothing. Without valid credentials, only the settings are checked."""
    yield from _check_settings(settings)
    session = boto3.Session(region_name=settings.region)
    if session.get_credentials() is None:
        expected = "none found: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        yield Requirement("credentials", False, expected)
        return
    config = Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 2})

    def client(service: str) -> Any:
        return session.client(service, endpoint_url=settings.aws_url, config=config)

    credentials = _check_call("credentials", "the keys are not accepted", client("sts").get_caller_identity)
    yield credentials
    if credentials.ok:
        yield from _check_resources(settings, client)


def _check_settings(settings: AccountSettings) -> Iterator[Requirement]:
    no_disk = "a task's disk is deleted with the task"
    wanted: list[tuple[str, str | None, tuple[str, ...], str]] = [
        ("MANGA_TARGET", settings.target, ("aws",), "expected aws"),
        ("MANGA_WEBSOCKET_URL", settings.websocket_url, ("wss://",), "expected wss://…"),
        ("MANGA_REDIS_URL", settings.redis_url, ("rediss://",), "expected rediss://…"),
        ("MANGA_STORE", settings.store, ("s3://",), f"expected s3://…: {no_disk}"),
        ("MANGA_RUNS_URL", settings.runs_url, ("s3://",), f"expected s3://…: {no_disk}"),
        (
            "MANGA_JOB_LEASES",
            settings.job_leases,
            ("redis", "dynamodb"),
            "expected redis or dynamodb: tasks share no disk",
        ),
    ]
    for name, value, prefixes, expected in wanted:
        ok = value is not None and value.startswith(prefixes)
        # The value is not shown, as a URL may hold a password.
        yield Requirement(name, ok, "OK" if ok else f"{'another value' if value else 'not set'}; {expected}")
    ok = settings.token is not None
    yield Requirement("MANGA_TOKEN", ok, "set" if ok else "not set; expected the benchmark customer's token")


def _check_resources(settings: AccountSettings, client: Callable[[str], Any]) -> Iterator[Requirement]:
    dynamodb, s3, sns, bedrock = (client(service) for service in ("dynamodb", "s3", "sns", "bedrock"))
    for table in _tables(settings):
        yield _check_call(f"table {table}", "deploy deploy/aws/stack.yaml", dynamodb.describe_table, TableName=table)
    for bucket in sorted(
        {urlsplit(url).netloc for url in (settings.store, settings.runs_url) if url.startswith("s3://")}
    ):
        yield _check_call(f"bucket {bucket}", "missing, or not accessible", s3.head_bucket, Bucket=bucket)
    topic = settings.sns_topic_arn
    if topic is not None:
        yield _check_call(f"topic {topic}", "no such topic", sns.get_topic_attributes, TopicArn=topic)
    ok = topic is not None or settings.pagerduty_routing_key is not None
    yield Requirement("pages", ok, "OK" if ok else "set MANGA_SNS_TOPIC_ARN or MANGA_PAGERDUTY_ROUTING_KEY")
    for model in (settings.haiku_model_id, settings.sonnet_model_id, settings.embedding_model_id):
        remedy = "request access to it in the Bedrock console, in this region"
        yield _check_call(f"model {model}", remedy, bedrock.get_foundation_model, modelIdentifier=model)


def _tables(settings: TableSettings) -> list[str]:
    return [
        settings.prompts_table,
        settings.customers_table,
        settings.orders_table,
        settings.sessions_table,
        settings.releases_table,
        settings.incidents_table,
        settings.jobs_table,
    ]


def _check_call(what: str, remedy: str, call: Callable[..., Any], **arguments: Any) -> Requirement:
    try:
        response = call(**arguments)
    except ClientError as error:
        details = error.response.get("Error", {})
        message = str(details.get("Message"))[:_MESSAGE_CHARS]
        return Requirement(what, False, f"{remedy} ({details.get('Code')}: {message})")
    except BotoCoreError as error:
        return Requirement(what, False, f"AWS could not be reached: {error}")
    return Requirement(what, True, str(response.get("Arn", "OK")))
