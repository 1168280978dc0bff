"""Answers ahead, on a real stack: hits by trigger, isolation, one making for all, freshness, giving way, and Redis failing."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from mangalib.benchmark.experiments.simulated_customers import Customers, converse, hit_rates
from mangalib.client import Client, Reply
from mangalib.domain.catalogue import Catalogue
from mangalib.local.stack import Stack, running_stack
from mangalib.nlu.meaning import MeaningReader
from mangalib.nlu.topics import Topics
from mangalib.precompute.facts import publish_facts
from mangalib.precompute.follow_ups import follow_up_key
from mangalib.precompute.generated_answer import GeneratedAnswer, Need, facts_of
from mangalib.precompute.generation import spec as makers
from mangalib.precompute.prediction.session_log import read_table
from mangalib.precompute.shared_answers import answer_key
from mangalib.precompute.warming.batch import answers_about
from tests.conftest import QUICK, Connect, orchestrator_here

HOUR_TOKENS = 300_000
AHEAD = {
    **QUICK,
    "answers_ahead": True,
    "held_out_share": 0,
    # Here a live answer takes half a second; a second is worth more so that it is still worth sparing.
    "second_saved_usd": 0.01,
    "precompute_hour_tokens": HOUR_TOKENS,
    "background_quiet_s": 0.05,
    # What is served is looked at here, not how fast: a look-up that is late on a busy machine would be given up.
    "replay_timeout_ms": 5_000,
    "cache_budget_ms": 3_000,
}


@pytest.fixture(scope="module")
def ahead() -> Iterator[Stack]:
    with running_stack(quiet=True, **AHEAD) as running:
        yield running


@pytest.fixture
async def redis(ahead: Stack) -> AsyncIterator[Redis]:
    client = Redis.from_url(ahead.addresses["redis_url"])
    yield client
    await client.aclose()


@asynccontextmanager
async def talking(stack: Stack, customer: str | None = None, session_id: str | None = None) -> AsyncIterator[Client]:
    token = stack.token_for(customer) if customer else stack.addresses["token"]
    async with Client(
        stack.addresses["websocket_url"], token, session_id=session_id, settings=stack.settings
    ) as client:
        yield client


def source(reply: Reply) -> str:
    assert reply.error is None
    assert reply.metadata is not None
    return reply.metadata.source


async def until(holds: Callable[[], Any], within_s: float = 15) -> None:
    deadline_s = time.monotonic() + within_s
    while not await holds():
        assert time.monotonic() < deadline_s, "it never came to that"
        await asyncio.sleep(0.02)


async def made(redis: Redis, customer: str, session_id: str, need: Need) -> GeneratedAnswer:
    key = follow_up_key(customer, session_id, need)
    await until(lambda: redis.exists(key))
    value = await redis.get(key)
    assert value is not None
    return msgspec.json.decode(value, type=GeneratedAnswer)


async def test_hit_rates_by_trigger_are_the_specifications_or_better(ahead: Stack, redis: Redis) -> None:
    customers = Customers(ahead.settings, seed=5)
    plans = customers.plans(50, datetime(2026, 11, 20, tzinfo=UTC), 1)

    def connect(session_id: str) -> Client:
        addresses = ahead.addresses
        return Client(addresses["websocket_url"], addresses["token"], session_id=session_id, settings=ahead.settings)

    rows = await converse(connect, customers, plans, think_s=1.5, at_once=6)
    table = hit_rates(rows, ahead.settings)
    assert (table["follow_ups"] >= 3).all()
    assert (table["hit_rate"] >= table["expected"]).all(), table.to_string()
    spent = sum(int(value) for value in (await redis.hgetall("budget:{follow-ups}:hour")).values())
    assert 0 < spent <= HOUR_TOKENS
    owners = await redis.keys("budget:{follow-ups}:[0-9a-f]*")
    assert owners
    limit = ahead.settings.follow_up_session_tokens
    assert all(int(tokens) <= limit for tokens in await redis.mget(owners)), "no session spends more than its budget"


async def test_other_words_for_the_same_need_find_what_was_made(ahead: Stack, redis: Redis) -> None:
    for number, words in enumerate(
        ("Where can I buy it?", "how do I get One Piece?", "I'd like to purchase One Piece")
    ):
        session = f"words-{number}"
        async with talking(ahead, "customer-002", session) as client:
            await client.answer("Tell me about One Piece")
            prepared = await made(redis, "customer-002", session, Need("purchase", "m001", "en"))
            reply = await client.answer(words)
        assert source(reply) == "precomputed"
        assert reply.text == prepared.text
        assert reply.metadata is not None
        assert (reply.metadata.tokens, reply.metadata.intent) == (0, "product_search")


async def test_what_more_is_asked_than_was_made_is_answered_by_the_model(ahead: Stack, redis: Redis) -> None:
    async with talking(ahead, "customer-003", "more") as client:
        await client.answer("Tell me about One Piece")
        await made(redis, "customer-003", "more", Need("purchase", "m001", "en"))
        for question in ("Where can I not buy One Piece?", "Where can I buy volume 3 of One Piece?"):
            assert source(await client.answer(question)) == "model", question


HOSTILE = [
    (("customer-004", "x"), ("customer-005", "x")),
    (("customer-004", "same"), ("customer-004", "other")),
    (('a","b', "c"), ("a", 'b","c')),
    (("a|b", "c"), ("a", "b|c")),
    (("a:b", "c"), ("a", "b:c")),
    (("a\n", "b"), ("a", "\nb")),
    (("ｃustomer", "s"), ("customer", "s")),
    (("*", "*"), ("customer-004", "same")),
]


@pytest.mark.parametrize(("owner", "thief"), HOSTILE)
async def test_nobody_is_served_what_was_made_for_another(
    owner: tuple[str, str], thief: tuple[str, str], ahead: Stack, redis: Redis
) -> None:
    need = Need("order_eta", "", "en")
    assert follow_up_key(*owner, need) != follow_up_key(*thief, need)
    secret = "This is for its owner only."
    prepared = GeneratedAnswer(text=secret, intent="order_status", source="precomputed")  # type: ignore[arg-type]
    await redis.set(follow_up_key(*owner, need), msgspec.json.encode(prepared), ex=60)
    if all(part.isprintable() and part.isascii() for part in (*owner, *thief)):
        async with talking(ahead, thief[0], thief[1]) as client:
            assert secret not in (await client.answer("When will it arrive?")).text
        async with talking(ahead, owner[0], owner[1]) as client:
            assert (await client.answer("When will it arrive?")).text == secret
    await redis.delete(follow_up_key(*owner, need))


async def test_a_hundred_at_once_over_two_orchestrators_ask_the_model_once(
    ahead: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await asyncio.to_thread(ahead.bedrock_stats)
    changes = {"follow_up_candidates": 1, "second_saved_usd": 1e-9}
    # Neither makes follow-ups meanwhile, so that what the model is asked is counted for this question alone.
    async with orchestrator_here(ahead, monkeypatch, beside=True, **changes):
        replies: list[Reply] = []

        async def one(number: int) -> None:
            async with talking(ahead, f"customer-{number % 40 + 1:03d}", f"crowd-{number}") as client:
                replies.append(await client.answer("Who wrote Vagabond?"))

        async with asyncio.TaskGroup() as group:
            for number in range(100):
                group.create_task(one(number))
    assert len({reply.text for reply in replies}) == 1
    sources = [source(reply) for reply in replies]
    assert sources.count("semantic_cache") >= 98, "one asks in each process, and one of these two makes it"
    transcripts = await asyncio.to_thread(ahead.local, "bedrock", "GET", "transcripts")
    asked = [entry for entry in transcripts if entry["question"] == "Who wrote Vagabond?"]
    assert len(asked) == 1
    assert (await asyncio.to_thread(ahead.bedrock_stats))["invocations"] > before["invocations"]


async def test_a_changed_price_ends_what_was_made_and_only_that(ahead: Stack, redis: Redis) -> None:
    catalogue = Catalogue.load(ahead.settings.data_dir / "catalogue.csv")
    naruto = catalogue.by_id["m002"]
    async with talking(ahead, "customer-006", "price") as client:
        await client.answer("Tell me about Naruto")
        await client.answer("Tell me about Berserk")
        await made(redis, "customer-006", "price", Need("purchase", "m287", "en"))
        about = await answers_about(redis, "m002")
        assert about
        await publish_facts(redis, [msgspec.structs.replace(naruto, price_usd=99.0)])
        try:
            assert source(await client.answer("Tell me about Naruto")) == "model"
            assert source(await client.answer("Where can I buy Berserk?")) == "precomputed"
        finally:
            await publish_facts(redis, [naruto])


async def test_an_order_that_moved_on_is_looked_up_again(ahead: Stack, redis: Redis) -> None:
    import boto3

    table = boto3.resource(
        "dynamodb",
        endpoint_url=ahead.addresses["aws_url"],
        region_name=ahead.settings.region,
        aws_access_key_id=ahead.addresses["aws_access_key_id"],
        aws_secret_access_key=ahead.addresses["aws_secret_access_key"],
    ).Table(ahead.settings.orders_table)
    async with talking(ahead, "customer-002", "moved") as client:
        await client.answer("Where is my order?")
        await made(redis, "customer-002", "moved", Need("order_eta", "", "en"))
        order = await asyncio.to_thread(
            lambda: table.get_item(Key={"customer": "customer-002", "order_id": "MA-10003"})["Item"]
        )
        await asyncio.to_thread(lambda: table.put_item(Item=order | {"status": "lost"}))
        reply = await client.answer("When will it arrive?")
        await asyncio.to_thread(lambda: table.put_item(Item=order))
        assert source(reply) == "model"
        assert "lost" in reply.text


async def test_a_question_before_its_answer_is_ready_joins_it(ahead: Stack, redis: Redis) -> None:
    # The first stream is the live answer's own; every one after it is held long enough to be met in the middle.
    for fault in (
        {"kind": "stall", "after_events": 8, "delay_ms": 10, "times": 1},
        {"kind": "stall", "after_events": 8, "delay_ms": 3000, "times": 20},
    ):
        await asyncio.to_thread(ahead.local, "bedrock", "POST", "faults", fault)
    try:
        async with talking(ahead, "customer-007", "join") as client:
            await client.answer("Tell me about Vinland Saga")
            need = Need("purchase", title_of(ahead, "Vinland Saga"), "en")
            await until(lambda: redis.exists("lock:" + follow_up_key("customer-007", "join", need)))
            reply = await client.answer("Where can I buy it?")
    finally:
        await asyncio.to_thread(ahead.local, "bedrock", "DELETE", "faults")
    assert source(reply) == "precomputed"
    transcripts = await asyncio.to_thread(ahead.local, "bedrock", "GET", "transcripts")
    assert [entry["question"] for entry in transcripts].count("Where can I buy Vinland Saga?") == 1, (
        "joined, not repeated"
    )


def title_of(stack: Stack, title: str) -> str:
    items = Catalogue.load(stack.settings.data_dir / "catalogue.csv").items
    return next(item.manga_id for item in items if item.title == title)


async def test_nothing_more_is_made_for_who_has_left(ahead: Stack, redis: Redis) -> None:
    fault = {"kind": "slow_first_token", "delay_ms": 1500, "times": 20}
    async with talking(ahead, "customer-008", "gone") as client:
        await client.answer("Tell me about Akira")
        await asyncio.to_thread(ahead.local, "bedrock", "POST", "faults", fault)
        await client.answer("Tell me about Berserk")
    keys = [
        follow_up_key("customer-008", "gone", Need(topic, "m287", "en"))
        for topic in ("purchase", "similar", "release", "availability")
    ]

    async def quiet() -> bool:
        return not await redis.exists(*(f"lock:{key}" for key in keys))

    # Held for as long: forgetting the faults would let go of what is being made.
    await until(quiet)
    assert not await redis.exists(*keys)
    await asyncio.to_thread(ahead.local, "bedrock", "DELETE", "faults")


@pytest.mark.parametrize(
    ("question", "control"),
    [
        ("Where is my order?", "Do you ship to Norway?"),
        ("My parcel is damaged, I want a refund!", "Do you ship to Finland?"),
        ("Recommend me a good fantasy manga", "Do you ship to Iceland?"),
        ("My name is Zed, do you gift wrap?", "Do you ship to Denmark?"),
    ],
)
async def test_personal_answers_are_never_shared(ahead: Stack, redis: Redis, question: str, control: str) -> None:
    """The shareable control is asked afterwards: when it is stored, the time to store the personal one is over."""

    async def stored_questions() -> list[str]:
        values: list[bytes] = await redis.hvals("shared:questions")  # type: ignore[misc]
        return [msgspec.json.decode(value)["text"] for value in values]

    async def control_is_stored() -> bool:
        return control in await stored_questions()

    # A session each: an answer with a history would not be shared in any case.
    for text in (question, control):
        async with talking(ahead, "customer-002") as client:
            assert source(await client.answer(text)) == "model"
    await until(control_is_stored)
    assert question not in await stored_questions()
    for key in await redis.keys("answer:*"):
        value = await redis.get(key)
        assert value is not None
        shared = msgspec.json.decode(value, type=GeneratedAnswer)
        assert shared.intent not in {"order_status", "complaint", "recommendation"}
        assert "orders" not in shared.depends


async def test_without_redis_queries_go_on_and_it_recovers_by_itself(
    ahead: Stack, redis: Redis, plain: Connect
) -> None:
    async with talking(ahead, "customer-009", "redis") as client:
        first = await client.answer("Tell me about Vagabond")
        await redis.config_set("maxmemory", "1mb")
        try:
            full = await client.answer("How many volumes of Vagabond are there?")
            assert full.error is None
            assert full.text
        finally:
            await redis.config_set("maxmemory", "0")
        await redis.execute_command("CLIENT", "PAUSE", "700", "ALL")
        started = time.monotonic()
        slow = await client.answer("What is your return policy?")
        assert slow.error is None
        assert slow.text
        assert time.monotonic() - started < 8
        await until(lambda: _is(client, "Tell me about Vagabond", "semantic_cache"))
    assert first.text


async def _is(client: Client, question: str, wanted: str) -> bool:
    reply = await client.answer(question)
    return reply.metadata is not None and reply.metadata.source == wanted


async def test_what_a_programme_orders_is_made_and_never_served_to_who_is_held_out(ahead: Stack, redis: Redis) -> None:
    """With the product's own command."""
    from mangalib.precompute.warming.plans import Measured, held_out, popular

    log = ahead.settings.data_dir / "example_sessions.csv"
    command = [
        sys.executable,
        "-m",
        "mangalib.cli",
        "warm",
        "--sessions",
        str(log),
        "--program",
        "popular",
        "--count",
        "3",
    ]
    environment = {"MANGA_REDIS_URL": ahead.addresses["redis_url"], "PATH": "/usr/bin:/bin"}
    for key in await redis.keys("answer:*"):
        await redis.delete(key)
    done = await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "3 answers ordered for popular\n", done.stderr
    catalogue = Catalogue.load(ahead.settings.data_dir / "catalogue.csv")
    reader = MeaningReader(catalogue)
    topics = await asyncio.to_thread(Topics.from_data, ahead.settings, reader)
    needs = popular(await asyncio.to_thread(read_table, log), 3)
    questions = {need: makers.question_of(need, catalogue.by_id[need.title]) for need in needs}
    keys = [
        answer_key(topics.by_name[need.topic].intent, need.topic, reader.read(question))
        for need, question in questions.items()
    ]

    async def all_there() -> bool:
        return await redis.exists(*keys) == len(keys)

    async with _quick_batches(ahead):
        await until(all_there, within_s=40)
    async with talking(ahead, "customer-010", "warmed") as client:
        for question in questions.values():
            assert source(await client.answer(question)) in {"semantic_cache", "trending"}
    learn = [sys.executable, "-m", "mangalib.cli", "cache-learn"]
    done = await asyncio.to_thread(subprocess.run, learn, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == f"learned from {await redis.hlen('shared:questions')} questions\n", done.stderr  # type: ignore[misc]
    assert await redis.exists("shared:learned"), "where orchestrators take it over from"
    assert held_out("s", 1.0)
    assert not held_out("s", 0.0)
    assert 0.07 < sum(held_out(f"s{i}", 0.1) for i in range(5000)) / 5000 < 0.13
    assert set((await Measured(redis).table()).columns) == {"arm", "answers", "total_ms", "saved_ms", "tokens"}


async def test_the_catalogues_hook_makes_exactly_what_mentioned_the_title_again(
    ahead: Stack, redis: Redis, tmp_path: Path
) -> None:
    """With the product's own command."""
    rows = (ahead.settings.data_dir / "catalogue.csv").read_text(encoding="utf-8").splitlines()
    old = next(row for row in rows if row.startswith("m287,"))
    fields = old.rsplit(",", 2)
    (tmp_path / "old.csv").write_text("\n".join([rows[0], old]), encoding="utf-8")
    (tmp_path / "new.csv").write_text("\n".join([rows[0], f"{fields[0]},77.77,{fields[2]}"]), encoding="utf-8")

    async def tell(file: str) -> str:
        command = [sys.executable, "-m", "mangalib.cli", "catalogue-changed", "--titles", str(tmp_path / file)]
        environment = {"MANGA_REDIS_URL": ahead.addresses["redis_url"], "PATH": "/usr/bin:/bin"}
        done = await asyncio.to_thread(
            subprocess.run, command, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    async with talking(ahead, "customer-010", "hook") as client:
        await client.answer("How much does Berserk cost?")
        await client.answer("How much does Vinland Saga cost?")
        mentioning = {key for key in await answers_about(redis, "m287") if await redis.exists(key)}
        before = {key.decode(): await redis.get(key) for key in await redis.keys("answer:*")}
        assert "1 titles changed" in await tell("new.csv")
        after = {key: await redis.get(key) for key in before}
        assert {key for key in before if after[key] != before[key]} == mentioning

        async def all_again() -> bool:
            return set(await answers_about(redis, "m287")) >= mentioning

        async with _quick_batches(ahead):
            await until(all_again, within_s=20)
        (new,) = Catalogue.load(tmp_path / "new.csv").items
        for key in await answers_about(redis, "m287"):
            value = await redis.get(key)
            assert value is not None
            assert msgspec.json.decode(value, type=GeneratedAnswer).depends["m287"] == facts_of(new), (
                "made from the new price"
            )
        # Ordered by the hook, or found missing by the batch, whichever looked first.
        assert source(await client.answer("How much does Berserk cost?")) in {"semantic_cache", "trending"}
        await tell("old.csv")


@asynccontextmanager
async def _quick_batches(stack: Stack) -> AsyncIterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        async with orchestrator_here(stack, monkeypatch, beside=True, trending_every_s=2):
            yield
