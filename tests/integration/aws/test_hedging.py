"""Hedging: a late model is invoked a second time; the first reply wins, and the loser stops generating at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import boto3
import pytest

from mangalib.aws import BedrockRuntime, ClaudeRequest, Turn, bedrock_endpoint, bedrock_pool
from mangalib.aws.hedging import Hedge, hedged_stream
from mangalib.aws.signing import Signer
from mangalib.errors import TransportTimeoutError
from mangalib.local.stack import Stack
from mangalib.settings import Settings
from tests.conftest import Connect, orchestrator_here, text_of

SLOW_MS = 20_000
HEDGING = {"hedge_share": 0.02, "hedge_answers_min": 5, "hedge_burst": 1, "read_timeout_s": 3}
LATE_S = 1.0


@pytest.fixture
def settings(stack: Stack) -> Settings:
    return stack.settings.model_copy(update=HEDGING)


@pytest.fixture
async def bedrock(stack: Stack, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[BedrockRuntime]:
    for name in ("aws_access_key_id", "aws_secret_access_key"):
        monkeypatch.setenv(name.upper(), stack.addresses[name])
    endpoint = bedrock_endpoint(settings)
    async with bedrock_pool(endpoint, settings) as pool:
        signer = Signer(boto3.Session(region_name=settings.region), settings.region)
        yield BedrockRuntime(pool, signer, endpoint, settings)


async def ask(bedrock: BedrockRuntime, hedge: Hedge, settings: Settings, text: str = "Hello there") -> str:
    request = ClaudeRequest(200, [Turn("user", text)])
    said = ""
    async with hedged_stream(bedrock, hedge, settings.haiku_model_id, request) as stream:
        async for events in stream:
            said += "".join(event.delta.text for event in events if event.delta is not None)
    return said


def known(settings: Settings, first_token_s: float = LATE_S) -> Hedge:
    """A hedge that has recorded enough first-token times."""
    hedge = Hedge(settings)
    for _ in range(settings.hedge_answers_min):
        hedge.answered(settings.haiku_model_id, first_token_s)
    return hedge


async def until_streams(stack: Stack, count: int) -> None:
    async with asyncio.timeout(10):
        while (await asyncio.to_thread(stack.bedrock_stats))["open_streams"] != count:
            await asyncio.sleep(0.01)


async def test_a_late_request_is_hedged_and_the_loser_is_closed(
    stack: Stack, bedrock: BedrockRuntime, settings: Settings
) -> None:
    hedge = known(settings)
    usual = await ask(bedrock, Hedge(settings), settings)
    before = stack.bedrock_stats()
    stack.local("bedrock", "POST", "faults", {"kind": "slow_first_token", "delay_ms": SLOW_MS})
    async with asyncio.timeout(SLOW_MS / 1000 / 2):
        assert await ask(bedrock, hedge, settings) == usual
    after = stack.bedrock_stats()
    assert after["invocations"] - before["invocations"] == 2
    assert hedge.hedged == 1
    await until_streams(stack, 0)
    spoken = after["tokens_generated"] - before["tokens_generated"]
    stack.local("bedrock", "DELETE", "faults")
    assert await ask(bedrock, Hedge(settings), settings) == usual
    again = stack.bedrock_stats()
    assert again["tokens_generated"] - after["tokens_generated"] == spoken, "the loser wrote nothing"


async def test_hedging_closes_the_loser_before_the_winner_has_ended(
    stack: Stack, bedrock: BedrockRuntime, settings: Settings
) -> None:
    hedge = known(settings)
    # It has begun its stream and stalls in it; the second one is stalled later, after its first text.
    stack.local("bedrock", "POST", "faults", {"kind": "stall", "after_events": 1})
    stack.local("bedrock", "POST", "faults", {"kind": "stall", "after_events": 6})
    request = ClaudeRequest(200, [Turn("user", "Hello there")])
    async with hedged_stream(bedrock, hedge, settings.haiku_model_id, request):
        await until_streams(stack, 1)
    await until_streams(stack, 0)


async def test_without_retry_budget_no_request_is_hedged(
    stack: Stack, bedrock: BedrockRuntime, settings: Settings
) -> None:
    hedge = known(settings, first_token_s=0.01)  # so that every answer is late
    before = stack.bedrock_stats()["invocations"]
    for number in range(20):
        await ask(bedrock, hedge, settings, f"Hello there {number}")
    extra = stack.bedrock_stats()["invocations"] - before - 20
    assert extra == hedge.hedged == 1, "the burst, and 2 % of 20 is less than one more"


async def test_a_waiting_request_is_hedged_when_the_budget_is_refilled(
    stack: Stack, bedrock: BedrockRuntime, settings: Settings
) -> None:
    hedge = known(settings, first_token_s=0.05)
    assert hedge.withdraw(), "the burst"
    asked = stack.bedrock_stats()["invocations"]
    stack.local("bedrock", "POST", "faults", {"kind": "slow_first_token", "delay_ms": SLOW_MS})
    waiting = asyncio.create_task(ask(bedrock, hedge, settings))
    async with asyncio.timeout(SLOW_MS / 1000 / 2):
        while (await asyncio.to_thread(stack.bedrock_stats))["invocations"] == asked:
            await asyncio.sleep(0.01)
        for _ in range(50):  # others ask, 2 % of which is one more
            hedge.invoked()
        assert await waiting
    assert hedge.hedged == 2


async def test_a_hedged_request_succeeds_when_one_of_its_invocations_fails(
    stack: Stack, bedrock: BedrockRuntime, settings: Settings
) -> None:
    hedge = known(settings, first_token_s=0.05)
    stack.local("bedrock", "POST", "faults", {"kind": "stall", "delay_ms": 1000})
    stack.local("bedrock", "POST", "faults", {"kind": "model_stream_error"})
    assert await ask(bedrock, hedge, settings)
    assert hedge.hedged == 1


async def test_when_both_hedged_invocations_fail_the_first_error_is_raised(
    stack: Stack, bedrock: BedrockRuntime, settings: Settings
) -> None:
    hedge = known(settings, first_token_s=0.05)
    stack.local("bedrock", "POST", "faults", {"kind": "stall", "after_events": 1})
    stack.local("bedrock", "POST", "faults", {"kind": "model_stream_error"})
    with pytest.raises(TransportTimeoutError, match="nothing for 3 s"):
        await ask(bedrock, hedge, settings)
    assert hedge.hedged == 1


async def test_a_cancelled_hedged_request_leaves_no_stream_open(
    stack: Stack, bedrock: BedrockRuntime, settings: Settings
) -> None:
    hedge = known(settings, first_token_s=0.05)
    stack.local("bedrock", "POST", "faults", {"kind": "stall", "after_events": 1, "times": 2})
    asking = asyncio.create_task(ask(bedrock, hedge, settings))
    await until_streams(stack, 2)
    asking.cancel()
    await asyncio.wait([asking])
    assert asking.cancelled()
    await until_streams(stack, 0)


async def test_the_hedging_threshold_does_not_shrink_with_hedging(settings: Settings) -> None:
    hedge, model_id = Hedge(settings), settings.haiku_model_id
    assert hedge.late_after_s(model_id) is None, "nothing is known yet"
    for number in range(100):
        hedge.answered(model_id, 0.2 + number / 1000)
    assert hedge.late_after_s(model_id) == pytest.approx(0.338, abs=0.002), (
        "as far beyond p95 as that beyond the median"
    )
    for _ in range(100):
        late_s = hedge.late_after_s(model_id)
        assert late_s is not None
        hedge.answered(model_id, 0.2)
        hedge.answered(model_id, late_s + 0.1)
    assert (hedge.late_after_s(model_id) or 0) >= 0.338


def test_a_few_slow_answers_do_not_move_the_hedging_threshold(settings: Settings) -> None:
    hedge, model_id = Hedge(settings), settings.haiku_model_id
    for number in range(200):
        hedge.answered(model_id, 2.3 if number % 40 == 0 else 0.2 + number % 40 / 1000)
    assert (hedge.late_after_s(model_id) or 9) < 0.3


async def test_a_hedged_answer_is_like_any_other_to_the_customer(
    stack: Stack, plain: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with orchestrator_here(stack, monkeypatch, **HEDGING), plain() as client:
        whole = [text_of(await client.frames(await client.query("Hello there"))) for _ in range(5)]
        stack.local("bedrock", "POST", "faults", {"kind": "slow_first_token", "delay_ms": SLOW_MS})
        frames = await client.frames(await client.query("Hello there"))
        assert frames[-1]["type"] == "done"
        assert text_of(frames) == whole[0]
        assert [frame["seq"] for frame in frames] == list(range(len(frames)))
