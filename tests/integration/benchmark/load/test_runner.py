"""The runner: open loop whatever the server does; failures and interruptions are recorded."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import pytest

from mangalib.aws import DocumentTable
from mangalib.benchmark.load.runner import Runner
from mangalib.benchmark.load.workload import Conversation, Question
from mangalib.benchmark.store import SCHEMA
from mangalib.client import Client
from mangalib.domain.intents import Intent
from mangalib.domain.releases import ReleaseStore
from mangalib.errors import ReleaseError
from mangalib.local.stack import Stack
from tests.integration.domain.test_releases import dynamodb_of


def every(gap_s: float, count: int, intent: Intent = Intent.GREETING, text: str = "Hello") -> list[Conversation]:
    return [Conversation([Question(n * gap_s, intent, text, n)]) for n in range(count)]


def runner_of(stack: Stack, workload: list[Conversation], **settings: Any) -> Runner:
    own = stack.settings.model_copy(update={"connect_ahead_s": 0.5, "discarded_per_intent": 0, **settings})
    address, token = stack.addresses["websocket_url"], stack.addresses["token"]
    return Runner(lambda: Client(address, token, settings=own), workload, own, progress=False)


async def test_every_question_is_a_sample_in_the_stores_columns(stack: Stack) -> None:
    workload = every(0.05, 6)
    workload[2].questions.append(Question(0.9, Intent.FAQ, "What is your return policy?", 0, "production"))
    runner = runner_of(stack, workload, discarded_per_intent=2)
    await runner.run()
    samples = runner.samples()
    assert list(samples.columns) == SCHEMA.names
    assert len(samples) == 7
    assert samples["ok"].all()
    assert samples["at"].is_monotonic_increasing
    assert (samples["started_at"] == runner.started_at).all()
    greetings, faq = samples[samples["intent"] == "greeting"], samples[samples["intent"] == "faq"].iloc[0]
    assert list(greetings["warmup"]) == [True, True, False, False, False, False]
    assert (greetings["first_token_ms"] < greetings["total_ms"]).all()
    assert (faq["source"], faq["origin"], faq["tokens"]) == ("semantic_cache", "production", 0)
    active = await asyncio.to_thread(
        lambda: ReleaseStore(
            DocumentTable(dynamodb_of(stack), stack.settings.releases_table, key="release", error=ReleaseError)
        ).pointer()
    )
    assert runner.releases == {active.active}


async def arrivals_at_the_model(stack: Stack, since_s: float) -> list[float]:
    """When the model's stand-in received each question after ``since_s``, by the monotonic clock that processes share."""
    transcripts = await asyncio.to_thread(stack.local, "bedrock", "GET", "transcripts")
    return sorted(seen["asked_at_s"] for seen in transcripts if seen["asked_at_s"] >= since_s)


async def test_questions_arrive_when_due_during_a_stall_and_the_queue_is_measured(stack: Stack) -> None:
    """A closed loop would ask once in these two seconds; here twenty questions wait, and all are measured."""
    calm = runner_of(stack, every(0.1, 10))
    await calm.run()
    await asyncio.to_thread(
        stack.local,
        "bedrock",
        "POST",
        "faults",
        {"kind": "stall", "times": 20, "delay_ms": 2000},
    )
    began_s = time.monotonic()
    stalled = runner_of(stack, every(0.1, 40))
    await stalled.run()
    before, after = (r.samples()["first_token_ms"].to_numpy(dtype=float) for r in (calm, stalled))
    assert np.quantile(after, 0.99) >= 2000 > 2 * np.quantile(before, 0.99)
    arrived_s = await arrivals_at_the_model(stack, began_s)
    assert len(arrived_s) == 40
    late_s = np.array(arrived_s) - arrived_s[0] - 0.1 * np.arange(40)
    assert late_s.max() < 1, "no question was held back by the stall of two seconds"
    assert (after >= 2000).sum() == 20, "every question that waited"


async def test_a_delay_of_the_client_itself_is_part_of_the_latency(stack: Stack) -> None:
    """While this process is busy, questions are sent late; their latency counts from when they were due."""
    runner = runner_of(stack, every(0.05, 10))

    async def keep_busy() -> None:
        await asyncio.sleep(1.1)
        end = asyncio.get_running_loop().time() + 0.6
        while asyncio.get_running_loop().time() < end:
            pass

    async with asyncio.TaskGroup() as group:
        group.create_task(keep_busy())
        group.create_task(runner.run())
    # More than were in flight when it began: those that were due meanwhile count from when they were due.
    assert (runner.samples()["first_token_ms"] > 250).sum() >= 5


async def test_failures_and_time_outs_are_samples_like_any_other(stack: Stack) -> None:
    for _ in range(2):
        await asyncio.to_thread(stack.local, "bedrock", "POST", "faults", {"kind": "internal", "times": 2})
    failing = runner_of(stack, every(0.5, 3))
    await failing.run()
    samples = failing.samples()
    assert len(samples) == 3
    assert list(samples["ok"]) == [False, False, True]
    assert list(samples["error"][:2]) == ["model_error", "model_error"]
    assert samples["first_token_ms"][:2].isna().all()
    await asyncio.to_thread(stack.local, "bedrock", "POST", "faults", {"kind": "stall", "times": 1})
    late = runner_of(stack, every(0.1, 1), benchmark_timeout_s=0.5)
    await late.run()
    assert late.samples()["error"].iloc[0] == "timeout"


async def test_a_failed_connection_fails_each_of_its_questions(stack: Stack) -> None:
    own = stack.settings.model_copy(update={"connect_ahead_s": 0.2})
    for url, token, code in (
        ("ws://127.0.0.1:9/prod", "x", "connect: unavailable"),
        (stack.addresses["websocket_url"], "nonsense", "connect: unauthorized"),
    ):
        workload = every(0.05, 2)
        workload[0].questions.append(Question(0.2, Intent.FAQ, "?", 0))
        runner = Runner(lambda u=url, t=token: Client(u, t, settings=own), workload, own, progress=False)
        await runner.run()
        assert len(runner.samples()) == 3
        assert set(runner.samples()["error"]) == {code}


async def test_a_cancelled_run_ends_at_once_and_keeps_what_was_answered(stack: Stack) -> None:
    runner = runner_of(stack, every(0.1, 300))
    task = asyncio.create_task(runner.run())
    while len(runner.outcomes) < 5:
        await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    samples = runner.samples()
    assert 5 <= len(samples) < 100
    assert samples["ok"].all(), "a question in flight is not a failure"
    assert len(asyncio.all_tasks()) == 1, "no task is left"
