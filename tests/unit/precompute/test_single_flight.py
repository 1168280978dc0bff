"""Single flight within one process: subscribers share one generation, also while Redis is down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from mangalib.domain import Intent
from mangalib.errors import TransportError
from mangalib.precompute.generated_answer import GeneratedAnswer
from mangalib.precompute.generation.single_flight import Generation, SingleFlight, WriteText
from mangalib.settings import load_settings

ANSWER = GeneratedAnswer("one two", Intent.FAQ, "semantic_cache")


class RedisThatIsDown:
    """Every command fails as if the connection was refused."""

    def __getattr__(self, name: str) -> Any:
        def command(*_: Any, **__: Any) -> Any:
            raise RedisConnectionError("connection refused")

        return command


@pytest.fixture
async def single_flight() -> AsyncIterator[SingleFlight]:
    async with asyncio.TaskGroup() as group:
        settings = load_settings(flight_timeout_s=5)
        single_flight = SingleFlight(RedisThatIsDown(), settings, group.create_task)  # type: ignore[arg-type]
        yield single_flight
        single_flight.stop()


async def text_of(generation: Generation) -> str:
    return "".join([piece async for piece in generation.pieces()])


async def test_concurrent_requests_share_one_generation(single_flight: SingleFlight) -> None:
    calls: list[str] = []

    async def generate(write: WriteText) -> GeneratedAnswer:
        calls.append("generate")
        for piece in ("one ", "two"):
            await write(piece)
            await asyncio.sleep(0)
        return ANSWER

    texts = await asyncio.gather(*(text_of(single_flight.start("key", generate)) for _ in range(5)))
    assert texts == ["one two"] * 5
    assert calls == ["generate"]


async def test_a_late_subscriber_gets_the_text_from_its_beginning() -> None:
    generation = Generation("key")
    generation.write("one ")
    early = asyncio.create_task(text_of(generation))
    await asyncio.sleep(0)
    generation.write("two")
    late = asyncio.create_task(text_of(generation))
    generation.complete(ANSWER)
    assert await early == await late == "one two"


async def test_subscribers_get_the_text_before_the_error() -> None:
    generation = Generation("key")
    generation.write("one ")
    generation.fail(TransportError("model stream: connection lost"))
    pieces = []
    with pytest.raises(TransportError, match="connection lost"):
        async for piece in generation.pieces():
            pieces.append(piece)
    assert pieces == ["one "]


async def test_the_first_outcome_of_a_generation_stays() -> None:
    generation = Generation("key")
    generation.complete(ANSWER)
    generation.fail(TransportError("too late"))
    assert await text_of(generation) == ""
    assert generation.result is ANSWER


async def test_an_unexpected_error_reaches_the_subscribers(single_flight: SingleFlight) -> None:
    async def generate(write: WriteText) -> GeneratedAnswer:
        raise ZeroDivisionError

    with pytest.raises(TransportError, match="ZeroDivisionError"):
        await text_of(single_flight.start("key", generate))
    assert single_flight.running("key") is None


async def test_a_generation_that_takes_too_long_fails() -> None:
    async def hangs(write: WriteText) -> GeneratedAnswer:
        await asyncio.Event().wait()
        raise AssertionError

    async with asyncio.TaskGroup() as group:
        settings = load_settings(flight_timeout_s=0.05)
        single_flight = SingleFlight(RedisThatIsDown(), settings, group.create_task)  # type: ignore[arg-type]
        with pytest.raises(TransportError, match=r"not complete after 0\.05 s"):
            await text_of(single_flight.start("key", hangs))


async def test_a_generation_with_subscribers_is_not_idle(single_flight: SingleFlight) -> None:
    finish = asyncio.Event()

    async def generate(write: WriteText) -> GeneratedAnswer:
        await write("one two")
        await finish.wait()
        return ANSWER

    subscribed = single_flight.start("subscribed", generate)
    reading = asyncio.create_task(text_of(subscribed))
    idle = single_flight.start("idle", generate)
    await asyncio.wait_for(idle.started.wait(), 5)
    await asyncio.wait_for(subscribed.started.wait(), 5)
    while not subscribed.subscribers:
        await asyncio.sleep(0)
    assert single_flight.cancel_idle() == 1
    single_flight.cancel("subscribed")
    finish.set()
    assert await reading == "one two"
    with pytest.raises(TransportError, match="cancelled"):
        await text_of(idle)
