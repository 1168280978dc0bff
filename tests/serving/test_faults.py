"""Whatever breaks: a whole answer, or one error frame with what was shown kept; never a hang, never a text twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator

import psutil
import pytest
from websockets.asyncio.client import connect

from mangalib.local.stack import Stack, running_stack
from mangalib.serving.client import Client
from tests.conftest import QUICK, PlainClient, text_of

QUESTION = "Tell me about One Piece"
# Answered without an embedding, which would otherwise be the first invocation to meet a fault.
SIMPLE_QUESTION = "Hello there"
STREAM_TIMEOUT_S = 2.5
SLACK_S = 3.0


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    changes = {
        "stream_timeout_s": STREAM_TIMEOUT_S,
        "send_timeout_s": 1,
        "knn_deadline_ms": 700,
        "profile_deadline_ms": 700,
        "cache_budget_ms": 300,
    }
    with running_stack(quiet=True, **{**QUICK, **changes}) as running:
        yield running


@pytest.fixture(scope="module")
def whole(stack: Stack) -> dict[str, str]:
    return {question: asyncio.run(_ask(stack, question))[1] for question in (QUESTION, SIMPLE_QUESTION)}


async def _ask(stack: Stack, question: str = QUESTION) -> tuple[str, str]:
    """How an answer ended (``done`` or an error's code) and what was shown, seen by a client that checks every frame."""
    frames = []
    url = f"{stack.addresses['websocket_url']}?token={stack.addresses['token']}"
    async with asyncio.timeout(STREAM_TIMEOUT_S + SLACK_S), connect(url, proxy=None) as socket:
        customer = PlainClient(socket)
        request_id = await customer.query(question)
        seen: set[int] = set()
        while not frames or frames[-1]["type"] not in {"done", "error"}:
            frame = await customer.next()
            # A post that was repeated may bring a frame twice; its seq says so.
            if frame.get("request_id") == request_id and frame["seq"] not in seen:
                seen.add(frame["seq"])
                frames.append(frame)
    assert [frame["seq"] for frame in frames] == list(range(len(frames)))
    return frames[-1].get("code", "done"), text_of(frames)


async def _pool_is_whole(stack: Stack) -> None:
    async with asyncio.timeout(5):
        while (await asyncio.to_thread(stack.bedrock_stats))["connections"] < stack.settings.pool_size:
            await asyncio.sleep(0.05)


MID, LATE = 12, 50
BEDROCK = [
    ("throttle", 0, {"done"}),
    ("internal", 0, {"done"}),
    ("reset", 0, {"done"}),
    ("model_stream_error", 0, {"done"}),
    ("bad_json", 0, {"done"}),
    ("slow_first_token", 0, {"done"}),
    ("stall", 0, {"timeout"}),
    *[
        (kind, at, {code})
        for at in (MID, LATE)
        for kind, code in (
            ("throttle", "model_error"),
            ("internal", "model_error"),
            ("reset", "unavailable"),
            ("model_stream_error", "model_error"),
            ("bad_json", "unavailable"),
            ("stall", "timeout"),
        )
    ],
]


@pytest.mark.parametrize(("kind", "after_events", "endings"), BEDROCK)
async def test_bedrock(stack: Stack, whole: dict[str, str], kind: str, after_events: int, endings: set[str]) -> None:
    question = QUESTION if after_events else SIMPLE_QUESTION
    invocations = stack.bedrock_stats()["invocations"]
    fault = {"kind": kind, "after_events": after_events, "delay_ms": 300 if kind == "slow_first_token" else 0}
    stack.local("bedrock", "POST", "faults", fault)
    started = time.monotonic()
    ending, text = await _ask(stack, question)
    assert ending in endings
    assert time.monotonic() - started < STREAM_TIMEOUT_S + SLACK_S
    if ending == "done":
        assert text == whole[question]
    else:
        assert whole[question].startswith(text)
        assert text or not after_events, "what was shown is kept"
    if text and ending != "done":
        retried = stack.bedrock_stats()["invocations"] - invocations
        assert retried == 2, "one embedding, one answer: nothing is tried again once text was shown"
    stack.local("bedrock", "DELETE", "faults")
    await _pool_is_whole(stack)
    assert await _ask(stack, question) == ("done", whole[question])


async def test_bedrock_that_fails_twice_before_the_first_token_is_an_error(stack: Stack) -> None:
    # The embedding takes the first of the three, which degrades the answer; both attempts at the model take the rest.
    stack.local("bedrock", "POST", "faults", {"kind": "throttle", "times": 3})
    ending, text = await _ask(stack)
    assert (ending, text) == ("model_error", "")


@pytest.mark.parametrize("after_events", [0, 6, 15])
@pytest.mark.parametrize("kind", ["throttle", "reset", "stall", "internal"])
async def test_gateway(stack: Stack, whole: dict[str, str], kind: str, after_events: int) -> None:
    stack.local("gateway", "POST", "faults", {"kind": kind, "after_events": after_events})
    assert await _ask(stack) == ("done", whole[QUESTION])


@pytest.mark.parametrize("kind", ["throttle", "reset", "stall", "internal"])
async def test_opensearch(stack: Stack, kind: str) -> None:
    stack.local("opensearch", "POST", "faults", {"kind": kind})
    async with Client(stack.addresses["websocket_url"], stack.addresses["token"], settings=stack.settings) as client:
        reply = await client.answer(QUESTION)
    assert reply.error is None
    assert reply.metadata is not None
    assert reply.metadata.degraded == ["knn"], "the answer went on without what was not found"


@pytest.mark.parametrize(("service", "program"), [("redis", "redis-server"), ("aws", "python")])
async def test_a_store_that_hangs_degrades_the_answer_only(stack: Stack, service: str, program: str) -> None:
    process = psutil.Process(stack.processes[service].pid)
    targets = [child for child in process.children() if program in child.name()] or [process]
    for target in targets:
        os.kill(target.pid, signal.SIGSTOP)
    try:
        async with Client(
            stack.addresses["websocket_url"], stack.addresses["token"], settings=stack.settings
        ) as client:
            # Only a question whose answer is known to be there is asked of Redis at all.
            reply = await client.answer("What is your return policy?" if service == "redis" else QUESTION)
        assert reply.error is None
        assert reply.metadata is not None
        assert reply.metadata.degraded == [{"redis": "cache", "aws": "customer"}[service]]
    finally:
        for target in targets:
            os.kill(target.pid, signal.SIGCONT)
    ending, _ = await _ask(stack)
    assert ending == "done", "and recovers by itself"


async def test_the_gateway_tells_a_client_that_the_back_end_is_gone_and_goes_on(stack: Stack) -> None:
    await asyncio.to_thread(stack.local, "gateway", "PUT", "integration", {"urls": ["http://127.0.0.1:9"]})
    try:
        url = f"{stack.addresses['websocket_url']}?token={stack.addresses['token']}"
        with pytest.raises(Exception, match="HTTP 403"):
            await connect(url, proxy=None).__aenter__()
    finally:
        url = json.loads((stack.folder / "orchestrator.json").read_text())["orchestrator_url"]
        await asyncio.to_thread(stack.local, "gateway", "PUT", "integration", {"urls": [url]})
    assert (await _ask(stack))[0] == "done"
