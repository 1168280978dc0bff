"""What the matrix of faults (tests/system/faults) does not count: requests, connections, and a back end that is down."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest
from websockets.asyncio.client import connect

from mangalib.local.stack import Stack, running_stack
from tests.conftest import QUICK, Connect, PlainClient, orchestrator_here, text_of

QUESTION = "Tell me about One Piece"
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
def whole(stack: Stack) -> str:
    return asyncio.run(_ask(stack))[1]


async def _ask(stack: Stack) -> tuple[str, str]:
    """How an answer ended (``done`` or an error's code) and what was shown, seen by a client that checks every frame."""
    frames = []
    url = f"{stack.addresses['websocket_url']}?token={stack.addresses['token']}"
    async with asyncio.timeout(STREAM_TIMEOUT_S + SLACK_S), connect(url, proxy=None) as socket:
        customer = PlainClient(socket)
        request_id = await customer.query(QUESTION)
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


@pytest.mark.parametrize("kind", ["throttle", "internal", "reset", "model_stream_error", "bad_json"])
async def test_nothing_is_retried_once_text_was_shown(stack: Stack, whole: str, kind: str) -> None:
    invocations = stack.bedrock_stats()["invocations"]
    stack.local("bedrock", "POST", "faults", {"kind": kind, "after_events": 12})
    ending, text = await _ask(stack)
    assert ending in {"model_error", "unavailable"}
    assert text and whole.startswith(text)
    assert stack.bedrock_stats()["invocations"] - invocations == 2, "one embedding, one answer"
    stack.local("bedrock", "DELETE", "faults")
    await _pool_is_whole(stack)
    assert await _ask(stack) == ("done", whole)


async def test_bedrock_that_fails_twice_before_the_first_token_is_an_error(stack: Stack) -> None:
    # The embedding takes the first of the three, which degrades the answer; both attempts at the model take the rest.
    stack.local("bedrock", "POST", "faults", {"kind": "throttle", "times": 3})
    ending, text = await _ask(stack)
    assert (ending, text) == ("model_error", "")


async def test_the_gateway_reports_a_dead_back_end_to_the_client_and_goes_on(stack: Stack) -> None:
    await asyncio.to_thread(stack.local, "gateway", "PUT", "integration", {"urls": ["http://127.0.0.1:9"]})
    try:
        url = f"{stack.addresses['websocket_url']}?token={stack.addresses['token']}"
        with pytest.raises(Exception, match="HTTP 403"):
            await connect(url, proxy=None).__aenter__()
    finally:
        url = json.loads((stack.folder / "orchestrator.json").read_text())["orchestrator_url"]
        await asyncio.to_thread(stack.local, "gateway", "PUT", "integration", {"urls": [url]})
    assert (await _ask(stack))[0] == "done"


async def test_without_retry_budget_a_model_error_is_not_retried(
    stack: Stack, plain: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with orchestrator_here(stack, monkeypatch, retry_share=0), plain() as client:
        stack.local("bedrock", "POST", "faults", {"kind": "throttle"})
        assert (await client.frames(await client.query("Hello there")))[-1]["type"] == "error"
        assert (await client.frames(await client.query("Hello there")))[-1]["type"] == "done"
