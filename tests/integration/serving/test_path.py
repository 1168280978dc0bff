"""The streaming path, end to end, over real sockets."""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import Any

import boto3
import pytest
from blockbuster import BlockingError, blockbuster_ctx

from mangalib.client import Client, Reply
from mangalib.local.stack import Stack
from mangalib.protocol.frames import Chunk
from mangalib.serving.prompts import PromptStore
from mangalib.settings import Settings
from tests.conftest import Connect, orchestrator_here, text_of

SIMPLE = "Hello there"
RETRIEVAL = "Tell me about One Piece"


async def until(condition, timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.02)


def client(stack: Stack, customer: str = "demo-customer") -> Client:
    return Client(stack.addresses["websocket_url"], stack.token_for(customer), settings=stack.settings)


TRANSCRIPTS = ("bedrock", "GET", "transcripts")


def transcripts(stack: Stack) -> list[str]:
    return [entry["text"] for entry in stack.local(*TRANSCRIPTS)]


async def test_simple_path_streams_the_models_text(stack: Stack, plain: Connect) -> None:
    async with plain() as customer:
        frames = await customer.frames(await customer.query(SIMPLE))
    assert [frame["seq"] for frame in frames] == list(range(len(frames)))
    assert {frame["type"] for frame in frames[:-1]} == {"chunk"}, "a greeting gets no status"
    assert len(frames) > 3, "the text came in pieces"
    assert text_of(frames) in transcripts(stack)
    metadata = frames[-1]["metadata"]
    assert metadata["intent"] == "greeting"
    assert metadata["source"] == "model"
    assert "haiku" in metadata["model_id"]
    assert metadata["tokens"] > 0
    assert metadata["first_token_ms"] < metadata["total_ms"]


async def test_retrieval_path_sends_statuses_and_uses_the_retrieved_titles(stack: Stack, plain: Connect) -> None:
    async with plain() as customer:
        frames = await customer.frames(await customer.query(RETRIEVAL))
    statuses = [frame["message"] for frame in frames if frame["type"] == "status"]
    assert statuses == [
        "Searching our manga catalog...",
        "Let me check...",
        "Looking up manga for you...",
        "Preparing your answer...",
    ]
    metadata = frames[-1]["metadata"]
    assert "sonnet" in metadata["model_id"]
    assert {"classified", "cache", "knn", "customer", "prompt", "first_token", "done"} <= metadata["timeline"].keys()
    assert metadata["degraded"] == []
    assert "Eiichiro Oda" in text_of(frames)


async def test_tokens_are_the_models_own_count_and_chunks_are_batched(stack: Stack, plain: Connect) -> None:
    before = stack.bedrock_stats()
    async with plain() as customer:
        frames = await customer.frames(await customer.query(RETRIEVAL))
    after = stack.bedrock_stats()
    chunks = [frame for frame in frames if frame["type"] == "chunk"]
    assert frames[-1]["metadata"]["tokens"] == after["output_tokens"] - before["output_tokens"]
    assert len(chunks) < after["events_sent"] - before["events_sent"]


async def test_an_approved_answer_comes_from_the_cache_and_the_model_is_not_asked(stack: Stack, plain: Connect) -> None:
    before = stack.bedrock_stats()["tokens_generated"]
    async with plain() as customer:
        frames = await customer.frames(await customer.query("what is your  return policy"))
    assert frames[-1]["metadata"]["source"] == "semantic_cache"
    assert text_of(frames).startswith("Unopened volumes")
    assert stack.bedrock_stats()["tokens_generated"] == before


async def test_buffered_answers_come_in_one_piece(plain: Connect) -> None:
    async with plain() as customer:
        frames = await customer.frames(await customer.query(RETRIEVAL, stream=False))
    assert sum(frame["type"] == "chunk" for frame in frames) == 1


async def test_japanese_and_emoji_survive_every_border(stack: Stack) -> None:
    async with client(stack) as customer:
        reply = await customer.answer("『ワンピース』について教えて")
    assert "尾田" in reply.text or "Eiichiro Oda" in reply.text
    assert reply.text.endswith("📚")
    assert reply.text in transcripts(stack)


def dynamodb_of(stack: Stack) -> Any:
    return boto3.resource(
        "dynamodb",
        endpoint_url=stack.addresses["aws_url"],
        region_name="us-west-2",
        aws_access_key_id=stack.addresses["aws_access_key_id"],
        aws_secret_access_key=stack.addresses["aws_secret_access_key"],
    ).meta.client


async def remembered(stack: Stack, customer: str, session_id: str) -> None:
    """Waits until the conversation is stored, which happens after the answer's last frame."""
    dynamodb = dynamodb_of(stack)
    key = {"customer": customer, "session_id": session_id}
    table = stack.settings.sessions_table
    async with asyncio.timeout(10):
        while "Item" not in await asyncio.to_thread(dynamodb.get_item, TableName=table, Key=key):
            await asyncio.sleep(0.02)


async def test_a_conversation_is_remembered_within_its_session_only(stack: Stack) -> None:
    async with client(stack, "customer-002") as first:
        one = await first.answer(RETRIEVAL)
        assert first.session_id is not None
        await remembered(stack, "customer-002", first.session_id)
        two = await first.answer("Tell me about Bleach")
    async with client(stack, "customer-002") as other:
        fresh = await other.answer("Tell me about Bleach")
    assert one.metadata is not None
    assert two.metadata is not None
    assert fresh.metadata is not None
    assert two.metadata.input_tokens > fresh.metadata.input_tokens


async def test_a_hundred_queries_one_after_another_open_no_connection(stack: Stack) -> None:
    async with client(stack) as customer:
        await customer.answer(SIMPLE)
        before = stack.bedrock_stats()["tls_handshakes"]
        for _ in range(100):
            reply = await customer.answer(SIMPLE)
            assert reply.error is None
    assert stack.bedrock_stats()["tls_handshakes"] == before


async def test_thirty_seconds_of_keep_alive_each_second_open_no_connection_and_take_none_away(stack: Stack) -> None:
    assert stack.settings.keep_alive_s == 1
    before = stack.bedrock_stats()
    started, asked, fewest = time.monotonic(), 0, before["connections"]
    async with client(stack) as customer:
        while time.monotonic() - started < 30:
            reply = await customer.answer(SIMPLE)
            fewest = min(fewest, (await asyncio.to_thread(stack.bedrock_stats))["connections"])
            assert reply.metadata is not None
            assert reply.metadata.attempts == 1
            asked += 1
    after = stack.bedrock_stats()
    assert asked > 30
    assert after["tls_handshakes"] == before["tls_handshakes"]
    assert fewest >= stack.settings.pool_size


async def test_a_changed_prompt_is_used_after_one_refresh_and_a_table_of_many_pages_loads_whole(
    stack: Stack, plain: Connect
) -> None:
    dynamodb, table = dynamodb_of(stack), stack.settings.prompts_table
    try:
        for version in range(100, 110):
            item = {"intent": "zz-filler", "version": version, "prompt_text": "x" * 310_000, "active": True}
            await asyncio.to_thread(dynamodb.put_item, TableName=table, Item=item)
        page = await asyncio.to_thread(dynamodb.scan, TableName=table)
        assert "LastEvaluatedKey" in page, "3 MB do not fit on one page"
        prompts = PromptStore(dynamodb, table)
        await prompts.refresh()
        assert len(prompts.lookup("zz-filler", 109)) == 310_000  # type: ignore[arg-type]
        async with plain("customer-012") as customer:
            before = (await customer.frames(await customer.query(SIMPLE)))[-1]["metadata"]["input_tokens"]
            item = {"intent": "greeting", "version": 99, "prompt_text": "hello " * 500, "active": True}
            await asyncio.to_thread(dynamodb.put_item, TableName=table, Item=item)
            async with asyncio.timeout(10):
                tokens = before
                while tokens == before:
                    tokens = (await customer.frames(await customer.query(SIMPLE)))[-1]["metadata"]["input_tokens"]
            assert tokens > 500
    finally:
        await asyncio.to_thread(dynamodb.delete_item, TableName=table, Key={"intent": "greeting", "version": 99})
        for version in range(100, 110):
            key = {"intent": "zz-filler", "version": version}
            await asyncio.to_thread(dynamodb.delete_item, TableName=table, Key=key)


async def test_a_client_that_leaves_stops_the_model(stack: Stack, plain: Connect) -> None:
    usual = stack.local("bedrock", "GET", "profile")
    stack.local("bedrock", "POST", "profile", {"inter_token_ms": Settings().local_inter_token_ms})
    for leave in ("close", "disconnect", "abort"):
        before = stack.bedrock_stats()["cancelled_streams"]
        async with plain() as customer:
            await customer.query(RETRIEVAL)
            await customer.next("chunk")
            events = stack.bedrock_stats()["events_sent"]
            if leave == "close":
                await customer.socket.close()
            elif leave == "disconnect":
                await customer.send(action="disconnect")
            else:
                customer.socket.transport.abort()
            await until(lambda before=before: stack.bedrock_stats()["cancelled_streams"] == before + 1)
            assert stack.bedrock_stats()["events_sent"] - events < 10, leave
            assert stack.bedrock_stats()["open_streams"] == 0
    stack.local("bedrock", "POST", "profile", usual)


async def test_cut_anywhere_and_resumed_the_text_is_the_same(stack: Stack, plain: Connect) -> None:
    """Cut at 100 positions, drawn from all frames of the answer: status, text, and the last one."""
    customer_id = "customer-003"
    async with plain(customer_id) as customer:
        whole = await customer.frames(await customer.query(RETRIEVAL))
    expected, rng = text_of(whole), random.Random(5)
    positions = [0, 1, 2, 3, 4, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(94))]

    async def cut_and_resume(position: int, style: str) -> None:
        seen = []
        async with plain(customer_id) as first:
            request_id = await first.query(RETRIEVAL)
            while len(seen) <= position and (not seen or seen[-1]["type"] != "done"):
                seen.append(await first.next())
            if style == "abort":
                first.socket.transport.abort()
        async with plain(customer_id) as second:
            await second.send(action="resume", request_id=request_id, after=seen[-1]["seq"])
            if seen[-1]["type"] != "done":
                seen += await second.frames(request_id)
            else:
                await second.send(action="ping")
                assert (await second.next())["type"] == "pong", "nothing is left to send"
        assert [frame["seq"] for frame in seen] == list(range(len(seen))), (position, style)
        statuses = [frame["state"] for frame in seen if frame["type"] == "status"]
        assert statuses == ["typing", "checking", "retrieving", "preparing"], (position, style)
        assert text_of(seen) == expected, (position, style)
        assert seen[-1]["type"] == "done", (position, style)

    gate = asyncio.Semaphore(5)

    async def gated(number: int, position: int) -> None:
        async with gate:
            await cut_and_resume(position, "abort" if number % 2 else "close")

    async with asyncio.TaskGroup() as group:
        for number, position in enumerate(positions):
            group.create_task(gated(number, position))


async def test_our_client_reconnects_by_itself_and_loses_nothing(stack: Stack) -> None:
    async with client(stack) as customer:
        whole = await customer.answer(RETRIEVAL)
    async with client(stack) as customer:
        text = ""
        cuts = 0
        async for _, frame in customer.ask(RETRIEVAL):
            kind = type(frame).__name__
            if kind == "Chunk":
                text += frame.text
                if cuts < 3:
                    cuts += 1
                    customer._socket.transport.abort()
            assert kind != "Error"
        assert cuts == 3
    assert text == whole.text


async def test_resuming_another_customers_answer_is_not_found(plain: Connect) -> None:
    async with plain("customer-004") as owner:
        request_id = await owner.query(SIMPLE)
        await owner.frames(request_id)
    async with plain("customer-005") as thief:
        await thief.send(action="resume", request_id=request_id, after=-1)
        frame = await thief.next()
    assert (frame["type"], frame["code"]) == ("error", "not_found")


async def test_no_connection_to_the_model_in_time_is_a_clear_busy(
    stack: Stack, plain: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.local("bedrock", "POST", "faults", {"kind": "stall", "after_events": 5, "delay_ms": 1500})
    changes = {"pool_size": 1, "pool_max_size": 1, "acquire_timeout_s": 0.2}
    async with orchestrator_here(stack, monkeypatch, **changes), plain() as first, plain("customer-013") as second:
        held = await first.query(SIMPLE)
        await first.next("chunk")
        refused = await second.frames(await second.query(SIMPLE))
        assert (refused[-1]["code"], refused[-1]["message"]) == (
            "busy",
            "We are very busy right now. Please try again in a moment.",
        )
        assert (await first.frames(held))[-1]["type"] == "done"
        again = await second.frames(await second.query(SIMPLE))
        assert again[-1]["type"] == "done", "a moment later it works"


async def test_a_stopped_orchestrator_leaves_its_answers_to_the_next_one(
    stack: Stack, plain: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with plain("customer-014") as customer:
        whole = await customer.frames(await customer.query(RETRIEVAL))
    async with orchestrator_here(stack, monkeypatch):
        connecting = plain("customer-014")
        customer = await connecting.__aenter__()
        request_id, seen = await customer.query(RETRIEVAL), []
        while not seen or seen[-1]["type"] != "chunk":
            seen.append(await customer.next())
    # The same connection, now served by another process that has never seen it.
    await customer.send(action="resume", request_id=request_id, after=seen[-1]["seq"])
    seen += await customer.frames(request_id)
    await connecting.__aexit__(None, None, None)
    # Frames in flight when the client resumed arrive once more, unchanged; clients ignore duplicate numbers.
    by_seq = {frame["seq"]: frame for frame in seen}
    assert all(by_seq[frame["seq"]] == frame for frame in seen)
    assert sorted(by_seq) == list(range(len(by_seq)))
    assert text_of([by_seq[seq] for seq in sorted(by_seq)]) == text_of(whole)


async def test_fifty_streams_and_a_stalled_one_never_block_the_event_loop(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The orchestrator runs on this test's loop, under a detector that raises at any blocking call."""
    replies: dict[str, Reply] = {}

    async def one(number: int) -> None:
        question, intent = f"Tell me about Naruto, please, number {number}", None
        if number % 2:
            question, intent = f"Hello there, I am number {number}", "greeting"
        async with client(stack, f"customer-{number % 40 + 1:03d}") as customer:
            replies[question] = await customer.answer(question, intent=intent)

    fault = {"kind": "stall", "after_events": 6, "delay_ms": 5000}
    await asyncio.to_thread(stack.local, "bedrock", "POST", "faults", fault)
    async with orchestrator_here(stack, monkeypatch):
        with blockbuster_ctx() as detector:
            # One line to standard output an answer, and log lines: the only writes that are meant to be there.
            detector.functions["io.TextIOWrapper.write"].can_block_in("mangalib/serving/metrics.py", {"publish"})
            with pytest.raises(BlockingError):
                time.sleep(0.001)  # noqa: ASYNC251 - the detector itself is tried
            async with asyncio.TaskGroup() as group:
                for number in range(50):
                    group.create_task(one(number))
                await until(lambda: len(replies) == 49)
                stats = await asyncio.to_thread(stack.bedrock_stats)
                assert stats["open_streams"] == 1, "49 are whole while the fiftieth still stalls"
                assert len(replies) == 49
    said = {entry["question"]: entry["text"] for entry in await asyncio.to_thread(stack.local, *TRANSCRIPTS)}
    assert {question: reply.text for question, reply in replies.items()} == {
        question: said[question] for question in replies
    }
    assert len(replies) == 50
    assert [reply.error for reply in replies.values() if reply.error] == []
    # A blocking call within a look-up would only degrade the answer, and one elsewhere might only be logged.
    assert [r.metadata.degraded for r in replies.values() if r.metadata and r.metadata.degraded] == []
    assert "Blocking call" not in caplog.text


async def test_metrics_of_concurrent_streams_are_apart_and_hold_no_text(stack: Stack) -> None:
    async def one(number: int) -> tuple[str, int, int]:
        async with client(stack, f"customer-{number + 10:03d}") as customer:
            reply = await customer.answer(RETRIEVAL if number % 2 else SIMPLE, request_id=f"metrics-{number}")
            assert reply.metadata is not None
            chunks = sum(isinstance(received.frame, Chunk) for received in reply.frames)
            return reply.metadata.model_id, reply.metadata.tokens, chunks

    expected = await asyncio.gather(*(one(number) for number in range(12)))
    # An answer's record is written when its last frame is out, a moment after the client has it.
    await until(lambda: all(f'"metrics-{number}"' in stack.log_of("orchestrator") for number in range(12)))
    log, records = stack.log_of("orchestrator"), {}
    for line in log.splitlines():
        record = json.loads(line)
        if str(record.get("request_id", "")).startswith("metrics-") and "_aws" in record:
            assert record["request_id"] not in records, "one record an answer"
            records[record["request_id"]] = record
    for number, (model_id, tokens, chunks) in enumerate(expected):
        record = records[f"metrics-{number}"]
        assert record["streaming_chunks_sent"] == [chunks]
        by_all, by_intent, over_all = record["_aws"]["CloudWatchMetrics"][0]["Dimensions"]
        assert (by_all, by_intent, over_all) == (["model", "intent", "final_state"], ["intent"], [])
        assert record["model"] == model_id
        assert record["streaming_tokens"] == [tokens]
        assert record["final_state"] == "completed"
        assert record["_aws"]["CloudWatchMetrics"][0]["Namespace"] == "MangaAssist/Streaming"
        assert {"first_token_latency_ms", "streaming_total_ms", "streaming_chunks_sent", "tokens_per_second"} <= set(
            record
        )
    assert "One Piece" not in log
    assert stack.addresses["token"] not in log
