"""What is missing in an AWS account before anything runs there: each thing asked for, and said in one line with what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from mangalib.settings import Settings


@dataclass(frozen=True)
class Finding:
    """One thing that was asked for: whether it is there, and what was found or is to be done."""

    what: str
    ok: bool
    said: str


def check_account(settings: Settings) -> Iterator[Finding]:
    """Ask for one thing after the other; nothing is changed."""
    yield from _addresses(settings)
    session = boto3.Session(region_name=settings.region)
    if session.get_credentials() is None:
        yield Finding(
            "credentials", False, "none found: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
        return
    quick = Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 2})

    def client(service: str) -> Any:
        return session.client(service, endpoint_url=settings.aws_url, config=quick)

    who = _asked("credentials", "the keys are not accepted", client("sts").get_caller_identity)
    yield who
    if not who.ok:
        return
    dynamodb = client("dynamodb")
    for table in _tables(settings):
        yield _asked(f"table {table}", "deploy deploy/aws/stack.yaml", dynamodb.describe_table, TableName=table)
    for bucket in _buckets(settings):
        yield _asked(f"bucket {bucket}", "not there, or not ours", client("s3").head_bucket, Bucket=bucket)
    if settings.sns_topic_arn is not None:
        topic = settings.sns_topic_arn
        yield _asked(f"topic {topic}", "no such topic", client("sns").get_topic_attributes, TopicArn=topic)
    pager = settings.sns_topic_arn is not None or settings.pagerduty_routing_key is not None
    yield Finding(
        "pages", pager, "somebody is paged" if pager else "set MANGA_SNS_TOPIC_ARN or MANGA_PAGERDUTY_ROUTING_KEY"
    )
    bedrock = client("bedrock")
    for model in (settings.haiku_model_id, settings.sonnet_model_id, settings.embedding_model_id):
        otherwise = "ask for access to it in Bedrock's console, in this region"
        yield _asked(f"model {model}", otherwise, bedrock.get_foundation_model, modelIdentifier=model)


def _addresses(settings: Settings) -> Iterator[Finding]:
    task = "a task's disk is gone with it"
    wanted: list[tuple[str, str | None, tuple[str, ...], str]] = [
        ("MANGA_TARGET", settings.target, ("aws",), "expected aws"),
        ("MANGA_WEBSOCKET_URL", settings.websocket_url, ("wss://",), "expected wss://…"),
        ("MANGA_REDIS_URL", settings.redis_url, ("rediss://",), "expected rediss://…"),
        ("MANGA_STORE", settings.store, ("s3://",), f"expected s3://…: {task}"),
        ("MANGA_RUNS_URL", settings.runs_url, ("s3://",), f"expected s3://…: {task}"),
        (
            "MANGA_JOB_LEASES",
            settings.job_leases,
            ("redis", "dynamodb"),
            "expected redis or dynamodb: tasks share no disk",
        ),
    ]
    for name, value, begins, expected in wanted:
        ok = value is not None and value.startswith(begins)
        # What it is is not shown: an address may hold a password.
        yield Finding(name, ok, "as it should be" if ok else f"{'something else' if value else 'not set'}; {expected}")
    there = settings.token is not None
    yield Finding("MANGA_TOKEN", there, "set" if there else "not set; expected the benchmark customer's token")


def _tables(settings: Settings) -> list[str]:
    return [
        settings.prompts_table,
        settings.customers_table,
        settings.orders_table,
        settings.sessions_table,
        settings.releases_table,
        settings.incidents_table,
        settings.jobs_table,
    ]


def _buckets(settings: Settings) -> list[str]:
    return sorted({urlsplit(url).netloc for url in (settings.store, settings.runs_url) if url.startswith("s3://")})


def _asked(what: str, otherwise: str, call: Callable[..., Any], **arguments: Any) -> Finding:
    try:
        answer = call(**arguments)
    except ClientError as error:
        said = error.response.get("Error", {})
        return Finding(what, False, f"{otherwise} ({said.get('Code')}: {str(said.get('Message'))[:120]})")
    except BotoCoreError as error:
        return Finding(what, False, f"AWS could not be reached: {error}")
    return Finding(what, True, str(answer.get("Arn", "there")))
