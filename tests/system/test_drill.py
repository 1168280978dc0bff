"""The incident drill: from a bad release to its rollback, with nothing but the product's own commands."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pandas as pd
import pytest

from mangalib.aws import DocumentTable
from mangalib.benchmark.experiments import ablation, synthetic_history
from mangalib.benchmark.store import Store, iter_runs
from mangalib.client import Client
from mangalib.domain.releases import ReleaseStore
from mangalib.errors import ReleaseError
from mangalib.local.stack import Stack, running_stack
from mangalib.settings import Settings, environment, load_settings
from tests.conftest import QUICK
from tests.integration.domain.test_releases import dynamodb_of
from tests.integration.incidents.test_incidents import Receiver

MANGALIB = [sys.executable, "-m", "mangalib.cli"]
# Models that answer quickly, and still so slowly that it is they who set the pace.
DRILL = {
    **QUICK,
    "local_haiku_first_token_ms": 60,
    "local_sonnet_first_token_ms": 150,
    "local_knn_ms": 100,
    "local_cold_after_s": 1,
    "local_cold_min_ms": 300,
    "local_cold_max_ms": 400,
    "haiku_ping_every_s": 0.25,
    "sonnet_warm_every_s": 0.25,
    "simple_first_token_budget_ms": 5000,
    "retrieval_first_token_budget_ms": 5000,
}


@pytest.fixture(scope="module")
def drill_stack() -> Iterator[Stack]:
    with running_stack(quiet=True, **DRILL) as running:
        yield running


@pytest.fixture
def env(drill_stack: Stack, tmp_path: Path) -> dict[str, str]:
    ready = tmp_path / "stack.json"
    ready.write_text(json.dumps(drill_stack.addresses), encoding="utf-8")
    settings = {"release_refresh_s": 0.5, "store": str(tmp_path / "store"), "page_backoff_s": 0.01}
    budgets = {name: DRILL[name] for name in DRILL if name.endswith("first_token_budget_ms")}
    return {**environment({**settings, **budgets}), "STACK": str(ready)}


def mangalib(env: dict[str, str], *arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [*MANGALIB, "--stack", env["STACK"], *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=env,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def one_run(env: dict[str, str]) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(mangalib(env, "benchmark", "--per-intent", "13", "--rate", "16", "--json"))
    return report


def test_a_bad_release_is_seen_paged_and_taken_back_once(drill_stack: Stack, env: dict[str, str]) -> None:
    receiver = Receiver()
    options: dict[str, Any] = {
        "endpoint_url": drill_stack.addresses["aws_url"],
        "region_name": "us-west-2",
        "aws_access_key_id": drill_stack.addresses["aws_access_key_id"],
        "aws_secret_access_key": drill_stack.addresses["aws_secret_access_key"],
    }
    sns, sqs = boto3.client("sns", **options), boto3.client("sqs", **options)
    topic = sns.create_topic(Name="on-call")["TopicArn"]
    queue = sqs.create_queue(QueueName="on-call")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    addresses = {**drill_stack.addresses, "pagerduty_url": receiver.url, "pagerduty_routing_key": "key"}
    Path(env["STACK"]).write_text(json.dumps(addresses), encoding="utf-8")
    env = env | {"MANGA_SNS_TOPIC_ARN": topic}
    try:
        good = one_run(env)
        assert good["releases"] == [1]
        assert good["failed"] == 0
        store = Store(env["MANGA_STORE"], load_settings())
        measured = store.load(*[store.started_at(good["run_id"])] * 2).samples
        # A laptop's runs vary more than a server's: by 15 % from run to run.
        for run in iter_runs(
            synthetic_history.before(
                measured, synthetic_history.SyntheticHistory(run_to_run=0.15, daily=0), np.random.default_rng(1)
            )
        ):
            store.append(run)
        calm = json.loads(mangalib(env, "verdict", "--act", "--fail-on", "sev2", "--json"))
        assert calm["baseline_runs"] == 672
        assert calm["incidents"] == []

        number = mangalib(env, "release", "create", "--off", "model_routing", "--note", "one model").strip()
        mangalib(env, "release", "activate", number, "--why", "drill")
        bad = one_run(env)
        assert bad["releases"] == [int(number)]
        seen = json.loads(mangalib(env, "verdict", "--act", "--json"))
        assert seen["severity"] == "SEV-1"
        assert "slower" in seen["sentence"]
        mangalib(env, "verdict", "--act", "--fail-on", "sev1", code=1)

        listed = json.loads(mangalib(env, "release", "list", "--json"))
        assert listed["pointer"]["active"] == 1
        assert listed["pointer"]["bad"] == [int(number)]
        assert f"{number}  taken back" in mangalib(env, "release", "list")
        time.sleep(0.5)
        healed = one_run(env)
        assert healed["releases"] == [1]
        green = json.loads(mangalib(env, "verdict", "--act", "--fail-on", "sev2", "--json"))
        assert green["severity"] == "none", green["sentence"]
        assert green["incidents"][0]["resolved"]

        events = [(body["event_action"], body["dedup_key"]) for body in receiver.bodies]
        assert [action for action, _ in events] == ["trigger", "resolve"]
        assert len({key for _, key in events}) == 1
        assert "release 2 taken back, release 1 is active again" in json.dumps(receiver.bodies[0])
        messages = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", [])
        assert len(messages) == 1
        assert "SEV-1" in json.loads(messages[0]["Body"])["Message"]
    finally:
        receiver.close()


def test_an_interrupted_run_keeps_what_was_answered(env: dict[str, str]) -> None:
    process = subprocess.Popen(
        [*MANGALIB, "--stack", env["STACK"], "benchmark", "--per-intent", "400", "--rate", "20"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time_out = time.monotonic() + 60
    seen = ""
    assert process.stderr is not None
    while "/3200" not in seen.split("|")[-1] or " 0/3200" in seen.split("|")[-1]:
        assert time.monotonic() < time_out
        seen += process.stderr.read(1)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "questions are kept" in errors
    store = Store(env["MANGA_STORE"], load_settings())
    newest = store.require_newest()
    assert newest[0] in output
    assert 0 < len(store.load(newest[1], newest[1]).samples) < 3200


@pytest.fixture
def ahead_stack() -> Iterator[Stack]:
    worth = {"answers_ahead": True, "held_out_share": 0, "second_saved_usd": 0.01}
    with running_stack(quiet=True, **(DRILL | worth)) as running:
        yield running


def test_a_saving_is_the_mean_of_pairs_with_students_interval() -> None:
    ten = ablation.the_ten(Settings())
    measures = {one.measure for one in ten}
    rows = [
        {"round": number, "variant": variant, "kind": kind, "question": "Hello", **dict.fromkeys(measures, value)}
        for number, saved in enumerate((100, 110))
        for variant, value in ((ablation.ALL_ON, 300), *((one.name, 300 + saved) for one in ten))
        for kind in {one.question for one in ten}
    ]
    in_ms = ablation.savings(pd.DataFrame(rows), Settings()).query("unit == 'ms'")
    # Of 100 and 110: mean 105, standard error 5, and Student's t for one degree of freedom is 12.706.
    assert len(in_ms) == 9
    assert set(in_ms["pairs"]) == {2} and set(in_ms["saving"]) == {105}
    assert in_ms["low"].to_numpy() == pytest.approx(105 - 5 * 12.706, abs=0.01)
    assert in_ms["high"].to_numpy() == pytest.approx(105 + 5 * 12.706, abs=0.01)


async def test_each_optimisation_is_switched_off_alone_and_what_it_saves_is_measured(ahead_stack: Stack) -> None:
    releases = ReleaseStore(
        DocumentTable(dynamodb_of(ahead_stack), ahead_stack.settings.releases_table, key="release", error=ReleaseError)
    )
    before = releases.pointer().active
    questions = {
        ablation.SIMPLE: ["Where is my order?"],
        ablation.RETRIEVAL: ["Recommend me a good fantasy manga"],
        ablation.SHARED: ["What is your return policy?"],
        ablation.TRENDING: ["Tell me about One Piece"],
        ablation.AFTER_A_PAUSE: ["Where is my order?"],
    }
    follow_ups = [("Where is my order?", "When will it arrive?")]

    def connect() -> Client:
        addresses = ahead_stack.addresses
        return Client(addresses["websocket_url"], addresses["token"], settings=ahead_stack.settings)

    settings = ahead_stack.settings
    measured = await ablation.ablate(
        connect, releases, questions, follow_ups, settings, rounds=1, pause_s=1.5, think_s=1, rng=random.Random(1)
    )
    table = ablation.savings(measured, settings).set_index("optimisation")
    assert len(table) == 10
    assert set(measured["variant"]) == {ablation.ALL_ON, *table.index}
    assert measured.groupby("variant").size().drop([ablation.ALL_ON, "model_warmup"]).eq(5).all()
    for clear in (
        "follow_up_prediction",
        "trending_answers",
        "model_warmup",
        "chunk_batching",
        "status_messages",
        "model_routing",
        "semantic_cache",
    ):
        assert table.loc[clear, "saving"] > 0, clear
    assert table.loc["model_warmup", "saving"] > 150, "the cold start that the model of latency has"
    assert await asyncio.to_thread(lambda: releases.pointer().active) == before
