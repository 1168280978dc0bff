"""The laboratory on AWS: its template, the alarms on published metrics, the container images, and `mangalib cloud check`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import boto3
import numpy as np
import pytest
import yaml
from moto.server import ThreadedMotoServer

from mangalib.domain.intents import ROUTES, Intent
from mangalib.jobs import Schedule, read_schedule
from mangalib.serving.answer_record import StreamMetrics, StreamState
from mangalib.serving.telemetry import publish_answer, publish_job
from mangalib.settings import environment, load_settings
from tests.integration.test_base_install import installed_with

# Moto warns of resources that it does not support.
pytestmark = pytest.mark.filterwarnings("ignore:Tried to parse AWS.*Alarm")

PROJECT = tomllib.loads((Path(__file__).resolve().parents[3] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FOLDER = Path(__file__).resolve().parents[3] / "deploy" / "aws"
TEMPLATE = FOLDER / "stack.yaml"
REGION = "us-west-2"


class _Loader(yaml.SafeLoader):
    """Reads CloudFormation's short functions: `!Ref x` as `{"Ref": "x"}`."""


def _function(loader: Any, suffix: str, node: yaml.Node) -> dict[str, Any]:
    name = suffix if suffix in {"Ref", "Condition"} else f"Fn::{suffix}"
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
    else:
        value = loader.construct_sequence(node, deep=True)
    return {name: value}


_Loader.add_multi_constructor("!", _function)


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.load(TEMPLATE.read_text(encoding="utf-8"), Loader=_Loader)
    return loaded


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        yield f"http://{host}:{port}"
    server.stop()


def client(service: str, aws: str) -> Any:
    return boto3.client(service, endpoint_url=aws, region_name=REGION)


def committed_schedule() -> Schedule:
    settings = load_settings()
    return read_schedule(settings.notebooks_dir / "schedule.yaml", settings)


def test_the_template_passes_the_linter() -> None:
    command = [Path(sys.executable).with_name("cfn-lint"), "--non-zero-exit-code", "informational", str(TEMPLATE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout


@pytest.fixture(scope="module")
def stack_name(aws: str) -> str:
    ec2 = client("ec2", aws)
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
    group = ec2.create_security_group(GroupName="lab", Description="lab", VpcId=vpc)["GroupId"]
    values = {
        "Image": "123456789012.dkr.ecr.us-west-2.amazonaws.com/manga-laboratory:1",
        "Subnets": subnet,
        "SecurityGroup": group,
        "WebsocketUrl": "wss://chat.example/prod",
        "RedisUrl": "rediss://redis.example:6379",
        "TokenSecret": "arn:aws:secretsmanager:us-west-2:123456789012:secret:token",
        "PagerEmail": "oncall@example.com",
    }
    parameters = [{"ParameterKey": key, "ParameterValue": value} for key, value in values.items()]
    body = TEMPLATE.read_text(encoding="utf-8")
    client("cloudformation", aws).create_stack(
        StackName="lab", TemplateBody=body, Parameters=parameters, Capabilities=["CAPABILITY_IAM"]
    )
    return "lab"


def test_the_template_deploys(aws: str, stack_name: str, template: dict[str, Any]) -> None:
    """To moto, whose CloudFormation has no alarms; the fixture `alarms` creates these by their own API."""
    known = client("cloudformation", aws).describe_stack_resources(StackName=stack_name)["StackResources"]
    there = {resource.get("LogicalResourceId") for resource in known}
    skipped = {name for name in template["Resources"] if name not in there}
    assert {template["Resources"][name]["Type"] for name in skipped} <= {"AWS::CloudWatch::Alarm"}

    rules = client("events", aws)
    (cluster,) = client("ecs", aws).list_clusters()["clusterArns"]
    scheduled = {}
    for rule in rules.list_rules()["Rules"]:
        (target,) = rules.list_targets_by_rule(Rule=rule["Name"])["Targets"]
        assert target["Arn"] == cluster
        assert target["EcsParameters"]["LaunchType"] == "FARGATE"
        (override,) = json.loads(target["Input"])["containerOverrides"]
        scheduled[override["command"][-1]] = rule["ScheduleExpression"]
    jobs = {entry.name for entry in committed_schedule().entries}
    assert scheduled.keys() == jobs, "each job of the schedule has its rule, and no other"

    tables = set(client("dynamodb", aws).list_tables()["TableNames"])
    settings = load_settings()
    assert {settings.jobs_table, settings.incidents_table, settings.releases_table, settings.prompts_table} <= tables


def minutes(fields: str, days: int = 28) -> set[tuple[int, int, int]]:
    """The (day of the week, hour, minute) in UTC of an EventBridge expression, Sunday as 0."""
    minute, hour, _, _, day, _ = fields.split()

    def values_of(text: str, size: int) -> set[int]:
        if text in {"*", "?"}:
            return set(range(size))
        start, _, step = text.partition("/")
        return set(range(int(start), size, int(step))) if step else {int(start)}

    week = {"SUN": {0}}.get(day) or values_of(day, 7)
    return {(d, h, m) for d in week for h in values_of(hour, 24) for m in values_of(minute, 60)}


def test_each_rule_has_the_due_times_of_its_job(template: dict[str, Any]) -> None:
    from datetime import UTC, datetime, timedelta
    from itertools import takewhile

    begin = datetime(2026, 11, 2, tzinfo=UTC) - timedelta(seconds=1)
    known = committed_schedule()
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::Events::Rule":
            target = resource["Properties"]["Targets"][0]
            expression = re.fullmatch(r"cron\((.*)\)", resource["Properties"]["ScheduleExpression"])
            assert expression is not None
            week = takewhile(lambda due: due < begin + timedelta(days=7), known.entry(target["Id"]).due_after(begin))
            dues = {((due.weekday() + 1) % 7, due.hour, due.minute) for due in week}
            assert dues == minutes(expression[1]), target["Id"]


def test_defaults_of_the_template_equal_the_settings(template: dict[str, Any]) -> None:
    settings, defaults = load_settings(), {k: v.get("Default") for k, v in template["Parameters"].items()}
    assert defaults["SimpleFirstTokenMs"] == round(settings.simple_first_token_budget_ms * (1 + settings.target_sev2))
    assert defaults["RetrievalFirstTokenMs"] == round(
        settings.retrieval_first_token_budget_ms * (1 + settings.target_sev2)
    )
    assert defaults["WholeAnswerMs"] == settings.whole_answer_budget_ms
    assert defaults["ErrorsPercent"] == 100 * settings.errors_sev2
    assert defaults["KeepRunsDays"] == settings.keep_runs_days
    assert defaults["MetricsNamespace"] == settings.metrics_namespace
    grafana = (FOLDER / "grafana.json").read_text(encoding="utf-8")
    for name in ("SimpleFirstTokenMs", "RetrievalFirstTokenMs", "WholeAnswerMs"):
        assert f'"value": {defaults[name]}' in grafana


def test_roles_allow_named_actions_on_named_resources_only(template: dict[str, Any]) -> None:
    statements = [
        (name, statement)
        for name, resource in template["Resources"].items()
        if resource["Type"] == "AWS::IAM::Role"
        for policy in resource["Properties"]["Policies"]
        for statement in policy["PolicyDocument"]["Statement"]
    ]
    assert len(statements) > 8
    for name, statement in statements:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        assert not [action for action in actions if "*" in action], name
        if statement["Resource"] == "*":
            assert actions == ["ecr:GetAuthorizationToken"], "the one action that cannot be limited to resources"


Published = dict[tuple[str, str, frozenset[tuple[str, str]]], list[float]]


def records(capsys: pytest.CaptureFixture[str]) -> Published:
    """The metrics that CloudWatch reads from the printed records: a series for each metric and set of dimensions."""
    published: Published = {}
    for line in capsys.readouterr().out.splitlines():
        record = json.loads(line)
        for directive in record["_aws"]["CloudWatchMetrics"]:
            for names in directive["Dimensions"]:
                dimensions = frozenset((name, record[name]) for name in names)
                for metric in directive["Metrics"]:
                    value = record[metric["Name"]]
                    series = published.setdefault((directive["Namespace"], metric["Name"], dimensions), [])
                    series += value if isinstance(value, list) else [value]
    return published


def answers(count: int, *, intent: Intent, first_ms: float, total_ms: float = 900, failed: int = 0) -> None:
    for number in range(count):
        metrics = StreamMetrics()
        metrics.first_token_ms, metrics.total_ms, metrics.tokens = first_ms + number % 7, total_ms + number % 11, 100
        state = StreamState.ERROR if number < failed else StreamState.COMPLETED
        publish_answer(
            load_settings().metrics_namespace,
            model_id=ROUTES[intent].model_id(load_settings()),
            intent=intent.value,
            state=state,
            metrics=metrics,
            request_id="r",
        )


def firing(alarms: list[dict[str, Any]], published: Published) -> set[str]:
    """The alarms that fire after one period with these metrics, evaluated as CloudWatch does."""
    return {alarm["AlarmName"] for alarm in alarms if _breaches(alarm, published)}


def _breaches(alarm: dict[str, Any], published: Published) -> bool:
    if alarm.get("Metrics"):
        values = {q["Id"]: _statistic(q["MetricStat"], published) for q in alarm["Metrics"] if "MetricStat" in q}
        (expression,) = [query["Expression"] for query in alarm["Metrics"] if "Expression" in query]
        present = {name: value for name, value in values.items() if value is not None}
        if expression.startswith("MAX"):
            value = max(present.values(), default=None)
        else:
            match = re.fullmatch(r"100 \* (\w+)", expression)
            assert match is not None
            value = 100 * present[match[1]] if match[1] in present else None
    else:
        stat = {"Metric": alarm, "Stat": alarm.get("ExtendedStatistic") or alarm["Statistic"]}
        value = _statistic(stat, published)
    if value is None:
        return bool(alarm["TreatMissingData"] == "breaching")
    compare = {"GreaterThanThreshold": value > alarm["Threshold"], "LessThanThreshold": value < alarm["Threshold"]}
    return compare[alarm["ComparisonOperator"]]


def _statistic(stat: dict[str, Any], published: Published) -> float | None:
    metric = stat["Metric"]
    dimensions = frozenset((one["Name"], one["Value"]) for one in metric.get("Dimensions", []))
    values = published.get((metric["Namespace"], metric["MetricName"], dimensions))
    if not values:
        return None
    kinds = {"Average": mean, "Maximum": max, "SampleCount": len, "p95": lambda v: float(np.percentile(v, 95))}
    return float(kinds[stat["Stat"]](values))


@pytest.fixture(scope="module")
def alarms(aws: str, template: dict[str, Any]) -> list[dict[str, Any]]:
    """As returned by CloudWatch's API, which has validated them."""
    cloudwatch = client("cloudwatch", aws)
    defaults = {name: parameter.get("Default") for name, parameter in template["Parameters"].items()}
    topic = client("sns", aws).create_topic(Name="manga-pages")["TopicArn"]

    def resolved(value: Any) -> Any:
        if isinstance(value, dict):
            if "Ref" in value:
                return {"Pages": topic}.get(value["Ref"], defaults.get(value["Ref"]))
            return {key: resolved(inner) for key, inner in value.items()}
        return [resolved(inner) for inner in value] if isinstance(value, list) else value

    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::CloudWatch::Alarm":
            cloudwatch.put_metric_alarm(**resolved(resource["Properties"]))
    known: list[dict[str, Any]] = cloudwatch.describe_alarms()["MetricAlarms"]
    assert all(alarm["AlarmActions"] == [topic] for alarm in known)
    return known


def test_no_alarm_fires_while_all_metrics_are_ok(
    alarms: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(alarms) == 6
    for intent in Intent:
        answers(50, intent=intent, first_ms=300 if not ROUTES[intent].large_model else 950)
    publish_job(load_settings().jobs_metrics_namespace, job="benchmark", ok=True, duration_s=60)
    published = records(capsys)
    assert firing(alarms, published) == set()
    for alarm in alarms:
        stats = [q["MetricStat"] for q in alarm.get("Metrics") or [] if "MetricStat" in q] or [
            {"Metric": alarm, "Stat": "SampleCount"}
        ]
        assert all(_statistic(stat, published) is not None for stat in stats), "each alarm's metrics are published"


def test_each_alarm_fires_on_its_own_failure_only(
    alarms: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    namespace = load_settings().jobs_metrics_namespace

    def publish_ok() -> None:
        answers(50, intent=Intent("faq"), first_ms=300)
        answers(50, intent=Intent("comparison"), first_ms=950)
        publish_job(namespace, job="benchmark", ok=True, duration_s=60)

    publish_ok()
    answers(50, intent=Intent("greeting"), first_ms=600)
    assert firing(alarms, records(capsys)) == {"manga-first-token-simple"}
    publish_ok()
    answers(50, intent=Intent("recommendation"), first_ms=1500)
    assert firing(alarms, records(capsys)) == {"manga-first-token-retrieval"}
    publish_ok()
    answers(50, intent=Intent("other"), first_ms=300, total_ms=4000)
    assert firing(alarms, records(capsys)) == {"manga-whole-answer"}
    publish_ok()
    answers(50, intent=Intent("other"), first_ms=300, failed=8)
    assert firing(alarms, records(capsys)) == {"manga-errors"}
    publish_ok()
    publish_job(namespace, job="hit-rates", ok=False, duration_s=3)
    assert firing(alarms, records(capsys)) == {"manga-jobs"}
    answers(50, intent=Intent("faq"), first_ms=300)
    assert firing(alarms, records(capsys)) == {"manga-no-benchmark"}


def test_grafana_reads_only_published_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    for intent in Intent:
        answers(2, intent=intent, first_ms=300)
    publish_job(load_settings().jobs_metrics_namespace, job="benchmark", ok=True, duration_s=60)
    published = {(space, name, frozenset(n for n, _ in dims)) for space, name, dims in records(capsys)}
    dashboard = json.loads((FOLDER / "grafana.json").read_text(encoding="utf-8"))
    targets = [target for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(targets) > 10
    for target in targets:
        assert (target["namespace"], target["metricName"], frozenset(target["dimensions"])) in published


def cloud_check(aws: str, **more: str) -> tuple[int, list[dict[str, Any]], str]:
    command = [sys.executable, "-m", "mangalib.cli", "cloud", "check", "--json"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=environment({"aws_url": aws, "region": REGION}, **more),
    )
    return done.returncode, json.loads(done.stdout), done.stdout


def test_cloud_check_lists_what_is_missing_and_shows_no_secret(aws: str, stack_name: str, alarms: object) -> None:
    code, findings, _ = cloud_check(aws, MANGA_JOBS_TABLE="not-there")
    missing = {finding["what"]: finding["said"] for finding in findings if not finding["ok"]}
    assert code == 1
    assert "deploy deploy/aws/stack.yaml" in missing["table not-there"]
    assert "MANGA_TARGET" in missing
    assert "MANGA_TOKEN" in missing
    assert "table manga-incidents" not in missing
    (bucket,) = [
        name for name in (b["Name"] for b in client("s3", aws).list_buckets()["Buckets"]) if "laboratory" in name
    ]
    topic = client("sns", aws).list_topics()["Topics"][0]["TopicArn"]
    right = {
        "MANGA_TARGET": "aws",
        "MANGA_WEBSOCKET_URL": "wss://chat.example/prod",
        "MANGA_REDIS_URL": "rediss://:hunter2@redis.example",
        "MANGA_STORE": f"s3://{bucket}/benchmark",
        "MANGA_RUNS_URL": f"s3://{bucket}/runs",
        "MANGA_JOB_LEASES": "dynamodb",
        "MANGA_SNS_TOPIC_ARN": topic,
        "MANGA_TOKEN": "secret-token",
    }
    _, findings, output = cloud_check(aws, **right)
    assert [
        finding["what"] for finding in findings if not finding["ok"] and not finding["what"].startswith("model")
    ] == []
    assert "hunter2" not in output
    assert "secret-token" not in output


IMAGES: dict[str, dict[str, Any]] = {
    "jobs": {"extras": {"lab", "cluster"}, "entry": ["mangalib"]},
    "serving": {"extras": set(), "entry": ["python", "-m", "mangalib.server"]},
}
NOT_IN_SERVING = {"distributed", "jupyterlab", "moto", "mypy", "papermill", "pytest", "scikit-learn"}


def instructions(image: str) -> list[str]:
    return (FOLDER / f"Containerfile.{image}").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_copies_what_exists_installs_its_extras_and_does_not_run_as_root(image: str) -> None:
    lines, root = instructions(image), FOLDER.parents[1]
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    assert [name for name in copied if not (root / name).exists()] == []
    assert {"mangalib", "notebooks", "data", "requirements.lock"} <= set(copied)
    assert "USER manga" in lines
    assert f"ENTRYPOINT {json.dumps(IMAGES[image]['entry'])}" in lines
    (install,) = [line for line in lines if "pip install" in line]
    extras = re.search(r"\.\[([\w,]+)\]", install)
    assert set(extras[1].split(",") if extras else []) == IMAGES[image]["extras"]
    assert IMAGES[image]["extras"] <= PROJECT["optional-dependencies"].keys()
    assert "mangalib" in PROJECT["scripts"]


def test_the_serving_image_has_no_notebooks_stand_ins_or_test_tools() -> None:
    serving = set().union(*(installed_with(requirement) for requirement in PROJECT["dependencies"]))
    assert {"aiohttp", "boto3", "redis"} <= serving
    assert serving & NOT_IN_SERVING == set()
    assert not [name for name in serving if name.startswith(("jupyter", "ipy", "nb"))]
