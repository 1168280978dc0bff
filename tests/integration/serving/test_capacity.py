"""Overload, draining servers and killed servers: every question gets an answer or a clear refusal."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from mangalib.client import Client, Reply
from mangalib.local.stack import Stack
from mangalib.protocol.frames import Chunk
from tests.conftest import Connect, back_ends, orchestrator_here, orchestrator_process, text_of

CAPACITY = 10
CROWD = 50
ANSWER = " ".join(f"word{number}" for number in range(400))


async def until_streams(stack: Stack, count: int) -> None:
    async with asyncio.timeout(20):
        while (await asyncio.to_thread(stack.bedrock_stats))["open_streams"] < count:
            await asyncio.sleep(0.02)


# Overload


async def test_at_twice_the_capacity_the_excess_is_refused_at_once_and_retried_later(
    stack: Stack, plain: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.local("bedrock", "PUT", "answer", {"text": ANSWER})
    async with AsyncExitStack() as clients:
        await clients.enter_async_context(orchestrator_here(stack, monkeypatch, capacity_answers=CAPACITY))
        crowd = [await clients.enter_async_context(plain()) for _ in range(2 * CAPACITY)]
        before = stack.bedrock_stats()["invocations"]
        served = [await client.query("Hello there") for client in crowd[:CAPACITY]]
        await until_streams(stack, CAPACITY)
        for client in crowd[CAPACITY:]:
            [refused] = await client.frames(await client.query("Hello there"))
            assert refused["code"] == "busy"
            assert 500 <= refused["retry_after_ms"] <= 1500
        assert stack.bedrock_stats()["invocations"] - before == CAPACITY, "nothing was done for those refused"
        for client, request_id in zip(crowd[:CAPACITY], served, strict=True):
            frames = await client.frames(request_id)
            assert (frames[-1]["type"], text_of(frames)) == ("done", ANSWER)
        # The crowd is served: at once there is room again.
        again = [await client.query("Hello there") for client in crowd[CAPACITY:]]
        for client, request_id in zip(crowd[CAPACITY:], again, strict=True):
            assert text_of(await client.frames(request_id)) == ANSWER


async def test_every_client_that_retries_is_served_and_capacity_is_never_exceeded(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice as many customers as the capacity, each of whom retries after ``retry_after_ms``, until all are served."""
    most = 0

    async def served(client: Client) -> Reply:
        while True:
            reply = await client.answer("Hello there")
            if reply.error is None:
                return reply
            assert reply.error.code == "busy"
            await asyncio.sleep((reply.error.retry_after_ms or 0) / 1000)

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, (await asyncio.to_thread(stack.bedrock_stats))["open_streams"])
            await asyncio.sleep(0.02)

    changes = {"capacity_answers": CAPACITY, "busy_retry_ms": 100}
    async with orchestrator_here(stack, monkeypatch, **changes), AsyncExitStack() as clients:
        crowd = [
            await clients.enter_async_context(
                Client(stack.addresses["websocket_url"], stack.addresses["token"], settings=stack.settings)
            )
            for _ in range(2 * CAPACITY)
        ]
        watching = asyncio.create_task(watch())
        replies = await asyncio.gather(*map(served, crowd))
        watching.cancel()
    assert len({reply.text for reply in replies}) == 1
    assert 0 < most <= CAPACITY


# Draining


async def test_a_draining_server_finishes_running_answers_and_refuses_new_ones(
    stack: Stack, plain: Connect, tmp_path: Path
) -> None:
    stack.local("bedrock", "PUT", "answer", {"text": ANSWER})
    impatient = stack.settings.model_copy(update={"reconnect_attempts": 1000, "reconnect_backoff_max_ms": 50})
    async with AsyncExitStack() as clients:
        process, url = await asyncio.to_thread(
            clients.enter_context, orchestrator_process(stack, tmp_path, drain_timeout_s=30)
        )
        usual = stack.addresses["websocket_url"], stack.addresses["token"]
        with back_ends(stack, url):
            crowd = [await clients.enter_async_context(plain()) for _ in range(5)]
            late = await clients.enter_async_context(plain())
            ours = await clients.enter_async_context(Client(*usual, settings=impatient))
            stack.local(
                "bedrock", "POST", "faults", {"kind": "stall", "after_events": 30, "delay_ms": 2000, "times": 5}
            )
            running = [await client.query("Hello there") for client in crowd]
            await until_streams(stack, 5)
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(20):
                while (refused := (await late.frames(await late.query("Hello there")))[-1])["type"] == "done":
                    await asyncio.sleep(0.02)
            assert (refused["code"], refused["retry_after_ms"]) == ("going_away", 0)
            asking = asyncio.create_task(ours.answer("Hello there"))
        # The gateway has another back end now, as a load balancer would arrange.
        for client, request_id in zip(crowd, running, strict=True):
            frames = await client.frames(request_id)
            assert (frames[-1]["type"], text_of(frames)) == ("done", ANSWER)
        assert await asyncio.to_thread(process.wait, 20) == 0
        assert (await asking).text == ANSWER, "sent on, it asked the other one"


async def test_draining_ends_at_its_time_out(stack: Stack, plain: Connect, tmp_path: Path) -> None:
    stack.local("bedrock", "POST", "faults", {"kind": "stall", "after_events": 30})
    async with AsyncExitStack() as clients:
        process, url = await asyncio.to_thread(
            clients.enter_context, orchestrator_process(stack, tmp_path, drain_timeout_s=0.5, stream_timeout_s=600)
        )
        with back_ends(stack, url):
            client = await clients.enter_async_context(plain())
            request_id = await client.query("Hello there")
            begun = await client.next("chunk")
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 20) == 0
        stack.local("bedrock", "DELETE", "faults")
        await client.send(action="resume", request_id=request_id, after=begun["seq"])
        assert (await client.frames(request_id))[-1]["type"] == "done", "what it could not finish, another one did"


# Killed


async def test_when_a_server_is_killed_another_one_finishes_its_fifty_answers(
    stack: Stack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.local("bedrock", "PUT", "answer", {"text": ANSWER})
    quick = stack.settings.model_copy(update={"resume_after_silence_s": 1, "stream_timeout_s": 60})
    begun = 0

    async def answer(client: Client, number: int) -> Reply:
        nonlocal begun
        reply, chunks = Reply(f"killed-{number}"), 0
        async for received in client.ask(f"Hello there, says {number}", request_id=reply.request_id):
            reply.frames.append(received)
            if isinstance(received.frame, Chunk):
                reply.text += received.frame.text
                chunks += 1
                begun += chunks == 2
        return reply

    async with AsyncExitStack() as clients:
        process, url = await asyncio.to_thread(clients.enter_context, orchestrator_process(stack, tmp_path))
        with back_ends(stack, url):
            crowd = [
                await clients.enter_async_context(
                    Client(
                        stack.addresses["websocket_url"], stack.token_for(f"customer-{n % 40 + 1:03d}"), settings=quick
                    )
                )
                for n in range(CROWD)
            ]
            answers = asyncio.gather(*(answer(client, number) for number, client in enumerate(crowd)))
            deadline_s = time.monotonic() + 30
            while begun < CROWD and time.monotonic() < deadline_s:
                await asyncio.sleep(0.01)
            assert begun == CROWD
            process.kill()
        replies = await answers
    whole = [reply for reply in replies if reply.text == ANSWER]
    honest = [reply for reply in replies if getattr(reply.frames[-1].frame, "code", "") == "interrupted"]
    with capsys.disabled():
        print(f"\nkilled with {CROWD} answers running: {len(whole)} whole, {len(honest)} honestly interrupted")
    assert len(whole) + len(honest) == CROWD
    assert all(ANSWER.startswith(reply.text) for reply in honest)
    assert len(whole) > CROWD // 2
    for reply in whole:
        seqs = [getattr(received.frame, "seq", None) for received in reply.frames]
        assert seqs == list(range(len(seqs))), "no frame twice, none missing"


async def test_resuming_beyond_the_stored_frames_is_an_interrupted_error(stack: Stack, plain: Connect) -> None:
    async with plain() as client:
        await client.send(action="resume", request_id="never-was", after=3)
        assert (await client.next("error"))["code"] == "interrupted"
        await client.send(action="resume", request_id="never-was", after=-1)
        assert (await client.next("error"))["code"] == "not_found"


@pytest.fixture(autouse=True)
def _usual_answers(stack: Stack) -> object:
    yield
    stack.local("bedrock", "DELETE", "answer")


async def test_many_concurrent_resumes_continue_an_answer_once(stack: Stack, plain: Connect) -> None:
    stack.local("bedrock", "PUT", "answer", {"text": ANSWER})
    async with plain() as client:
        request_id = await client.query("Hello there")
        last = await client.next("chunk")
    async with plain() as client:
        before = stack.bedrock_stats()["invocations"]
        for _ in range(5):
            await client.send(action="resume", request_id=request_id, after=last["seq"])
        seen = {last["seq"]: ""}
        while (frame := await client.next())["type"] != "done":
            assert frame["type"] == "chunk", frame
            assert seen.setdefault(frame["seq"], frame["text"]) == frame["text"], "one seq, one text"
        assert list(seen) == list(range(last["seq"], last["seq"] + len(seen)))
        assert ANSWER.endswith("".join(seen.values()))
        assert stack.bedrock_stats()["invocations"] - before == 1
