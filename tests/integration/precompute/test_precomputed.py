"""Precomputed answers on a real stack: hits by trigger, isolation, single flight, freshness, yielding, failures of Redis."""

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
from mangalib.precompute.generated_answer import CanonicalQuestion, GeneratedAnswer, title_fingerprint
from mangalib.precompute.generation.spec import standard_wording
from mangalib.precompute.prediction.session_log import read_table
from mangalib.precompute.shared_answers import about_key, answer_key
from tests.conftest import QUICK, Connect, orchestrator_here

HOUR_TOKENS = 300_000
PRECOMPUTING = {
    **QUICK,
    "answers_ahead": True,
    "held_out_share": 0,
    # A live answer takes half a second here; with a higher value of a second it is still worth generating ahead.
    "second_saved_usd": 0.01,
    "precompute_hour_tokens": HOUR_TOKENS,
    "background_quiet_s": 0.05,
    # These tests check what is served, not how fast: on a busy machine a look-up would miss its deadline.
    "replay_timeout_ms": 5_000,
    "cache_budget_ms": 3_000,
}


@pytest.fixture(scope="module")
def precomputing() -> Iterator[Stack]:
    with running_stack(quiet=True, **PRECOMPUTING) as running:
        yield running


@pytest.fixture
async def redis(precomputing: Stack) -> AsyncIterator[Redis]:
    client = Redis.from_url(precomputing.addresses["redis_url"])
    yield client
    await client.aclose()


@asynccontextmanager
async def connected_client(
    stack: Stack, customer: str | None = None, session_id: str | None = None
) -> AsyncIterator[Client]:
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
        assert time.monotonic() < deadline_s, f"not reached within {within_s} s"
        await asyncio.sleep(0.02)


async def generated_follow_up(
    redis: Redis, customer: str, session_id: str, question: CanonicalQuestion
) -> GeneratedAnswer:
    key = follow_up_key(customer, session_id, question)
    await until(lambda: redis.exists(key))
    value = await redis.get(key)
    assert value is not None
    return msgspec.json.decode(value, type=GeneratedAnswer)


async def test_hit_rates_by_trigger_are_the_specifications_or_better(precomputing: Stack, redis: Redis) -> None:
    customers = Customers(precomputing.settings, seed=5)
    plans = customers.plans(60, datetime(2026, 11, 20, tzinfo=UTC), 1)

    def connect(session_id: str) -> Client:
        addresses = precomputing.addresses
        return Client(
            addresses["websocket_url"], addresses["token"], session_id=session_id, settings=precomputing.settings
        )

    rows = await converse(connect, customers, plans, think_s=1.5, at_once=6)
    table = hit_rates(rows, precomputing.settings)
    assert (table["follow_ups"] >= 3).all()
    assert (table["hit_rate"] >= table["expected"]).all(), table.to_string()
    spent = sum(int(value) for value in (await redis.hgetall("budget:{follow-ups}:hour")).values())
    assert 0 < spent <= HOUR_TOKENS
    owners = await redis.keys("budget:{follow-ups}:[0-9a-f]*")
    assert owners
    limit = precomputing.settings.follow_up_session_tokens
    assert all(int(tokens) <= limit for tokens in await redis.mget(owners)), "no session spends more than its budget"


async def test_other_wordings_of_a_question_find_the_follow_up(precomputing: Stack, redis: Redis) -> None:
    for number, words in enumerate(
        ("Where can I buy it?", "how do I get One Piece?", "I'd like to purchase One Piece")
    ):
        session = f"words-{number}"
        async with connected_client(precomputing, "customer-002", session) as client:
            await client.answer("Tell me about One Piece")
            answer = await generated_follow_up(
                redis, "customer-002", session, CanonicalQuestion("purchase", "m001", "en")
            )
            reply = await client.answer(words)
        assert source(reply) == "precomputed"
        assert reply.text == answer.text
        assert reply.metadata is not None
        assert (reply.metadata.tokens, reply.metadata.intent) == (0, "product_search")


async def test_a_question_that_asks_for_more_than_the_follow_up_is_answered_by_the_model(
    precomputing: Stack, redis: Redis
) -> None:
    async with connected_client(precomputing, "customer-003", "more") as client:
        await client.answer("Tell me about One Piece")
        await generated_follow_up(redis, "customer-003", "more", CanonicalQuestion("purchase", "m001", "en"))
        for question in ("Where can I not buy One Piece?", "Where can I buy volume 3 of One Piece?"):
            assert source(await client.answer(question)) == "model", question


HOSTILE_IDS = [
    (("customer-004", "x"), ("customer-005", "x")),
    (("customer-004", "same"), ("customer-004", "other")),
    (('a","b', "c"), ("a", 'b","c')),
    (("a|b", "c"), ("a", "b|c")),
    (("a:b", "c"), ("a", "b:c")),
    (("a\n", "b"), ("a", "\nb")),
    (("ｃustomer", "s"), ("customer", "s")),
    (("*", "*"), ("customer-004", "same")),
]


@pytest.mark.parametrize(("owner", "other"), HOSTILE_IDS)
async def test_no_follow_up_is_served_to_another_customer_or_session(
    owner: tuple[str, str], other: tuple[str, str], precomputing: Stack, redis: Redis
) -> None:
    question = CanonicalQuestion("order_eta", "", "en")
    assert follow_up_key(*owner, question) != follow_up_key(*other, question)
    secret = "For its owner only."
    answer = GeneratedAnswer(text=secret, intent="order_status", source="precomputed")  # type: ignore[arg-type]
    await redis.set(follow_up_key(*owner, question), msgspec.json.encode(answer), ex=60)
    if all(part.isprintable() and part.isascii() for part in (*owner, *other)):
        async with connected_client(precomputing, other[0], other[1]) as client:
            assert secret not in (await client.answer("When will it arrive?")).text
        async with connected_client(precomputing, owner[0], owner[1]) as client:
            assert (await client.answer("When will it arrive?")).text == secret
    await redis.delete(follow_up_key(*owner, question))


async def test_a_hundred_concurrent_questions_over_two_orchestrators_invoke_the_model_once(
    precomputing: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await asyncio.to_thread(precomputing.bedrock_stats)
    changes = {"follow_up_candidates": 1, "second_saved_usd": 1e-9}
    # Neither generates follow-ups, so only this question invokes the model.
    async with orchestrator_here(precomputing, monkeypatch, beside=True, **changes):
        replies: list[Reply] = []

        async def one(number: int) -> None:
            async with connected_client(precomputing, f"customer-{number % 40 + 1:03d}", f"crowd-{number}") as client:
                replies.append(await client.answer("Who wrote Vagabond?"))

        async with asyncio.TaskGroup() as group:
            for number in range(100):
                group.create_task(one(number))
    assert len({reply.text for reply in replies}) == 1
    sources = [source(reply) for reply in replies]
    assert sources.count("semantic_cache") >= 98, "at most the first in each process counts as a model answer"
    transcripts = await asyncio.to_thread(precomputing.local, "bedrock", "GET", "transcripts")
    asked = [entry for entry in transcripts if entry["question"] == "Who wrote Vagabond?"]
    assert len(asked) == 1
    assert (await asyncio.to_thread(precomputing.bedrock_stats))["invocations"] > before["invocations"]


async def test_a_changed_price_invalidates_the_answers_about_that_title_only(precomputing: Stack, redis: Redis) -> None:
    catalogue = Catalogue.load(precomputing.settings.data_dir / "catalogue.csv")
    naruto = catalogue.by_id["m002"]
    async with connected_client(precomputing, "customer-006", "price") as client:
        await client.answer("Tell me about Naruto")
        await client.answer("Tell me about Berserk")
        await generated_follow_up(redis, "customer-006", "price", CanonicalQuestion("purchase", "m287", "en"))
        about = await answers_about(redis, "m002")
        assert about
        await publish_facts(redis, [msgspec.structs.replace(naruto, price_usd=99.0)])
        try:
            assert source(await client.answer("Tell me about Naruto")) == "model"
            assert source(await client.answer("Where can I buy Berserk?")) == "precomputed"
        finally:
            await publish_facts(redis, [naruto])


async def test_a_changed_order_invalidates_the_follow_up(precomputing: Stack, redis: Redis) -> None:
    import boto3

    table = boto3.resource(
        "dynamodb",
        endpoint_url=precomputing.addresses["aws_url"],
        region_name=precomputing.settings.region,
        aws_access_key_id=precomputing.addresses["aws_access_key_id"],
        aws_secret_access_key=precomputing.addresses["aws_secret_access_key"],
    ).Table(precomputing.settings.orders_table)
    async with connected_client(precomputing, "customer-002", "moved") as client:
        await client.answer("Where is my order?")
        await generated_follow_up(redis, "customer-002", "moved", CanonicalQuestion("order_eta", "", "en"))
        order = await asyncio.to_thread(
            lambda: table.get_item(Key={"customer": "customer-002", "order_id": "MA-10003"})["Item"]
        )
        await asyncio.to_thread(lambda: table.put_item(Item=order | {"status": "lost"}))
        reply = await client.answer("When will it arrive?")
        await asyncio.to_thread(lambda: table.put_item(Item=order))
        assert source(reply) == "model"
        assert "lost" in reply.text


async def test_a_question_whose_answer_is_being_generated_joins_that_generation(
    precomputing: Stack, redis: Redis
) -> None:
    # The first stream is the live answer; every later one is held long enough to be joined half-way.
    for fault in (
        {"kind": "stall", "after_events": 8, "delay_ms": 10, "times": 1},
        {"kind": "stall", "after_events": 8, "delay_ms": 3000, "times": 20},
    ):
        await asyncio.to_thread(precomputing.local, "bedrock", "POST", "faults", fault)
    try:
        async with connected_client(precomputing, "customer-007", "join") as client:
            await client.answer("Tell me about Vinland Saga")
            question = CanonicalQuestion("purchase", title_of(precomputing, "Vinland Saga"), "en")
            await until(lambda: redis.exists("lock:" + follow_up_key("customer-007", "join", question)))
            reply = await client.answer("Where can I buy it?")
    finally:
        await asyncio.to_thread(precomputing.local, "bedrock", "DELETE", "faults")
    assert source(reply) == "precomputed"
    transcripts = await asyncio.to_thread(precomputing.local, "bedrock", "GET", "transcripts")
    assert [entry["question"] for entry in transcripts].count("Where can I buy Vinland Saga?") == 1, (
        "joined, not repeated"
    )


def title_of(stack: Stack, title: str) -> str:
    items = Catalogue.load(stack.settings.data_dir / "catalogue.csv").items
    return next(item.manga_id for item in items if item.title == title)


async def test_no_follow_up_is_generated_for_a_closed_session(precomputing: Stack, redis: Redis) -> None:
    fault = {"kind": "slow_first_token", "delay_ms": 1500, "times": 20}
    async with connected_client(precomputing, "customer-008", "gone") as client:
        await client.answer("Tell me about Akira")
        await asyncio.to_thread(precomputing.local, "bedrock", "POST", "faults", fault)
        await client.answer("Tell me about Berserk")
    keys = [
        follow_up_key("customer-008", "gone", CanonicalQuestion(topic, "m287", "en"))
        for topic in ("purchase", "similar", "release", "availability")
    ]

    async def quiet() -> bool:
        return not await redis.exists(*(f"lock:{key}" for key in keys))

    # Clear the faults only afterwards: it would release the generations that they hold.
    await until(quiet)
    assert not await redis.exists(*keys)
    await asyncio.to_thread(precomputing.local, "bedrock", "DELETE", "faults")


@pytest.mark.parametrize(
    ("question", "control"),
    [
        ("Where is my order?", "Do you ship to Norway?"),
        ("My parcel is damaged, I want a refund!", "Do you ship to Finland?"),
        ("Recommend me a good fantasy manga", "Do you ship to Iceland?"),
        ("My name is Zed, do you gift wrap?", "Do you ship to Denmark?"),
    ],
)
async def test_personal_answers_are_never_shared(
    precomputing: Stack, redis: Redis, question: str, control: str
) -> None:
    """The shareable control is asked afterwards: when it is stored, the time to store the personal one is over."""

    async def stored_questions() -> list[str]:
        values: list[bytes] = await redis.hvals("shared:questions")  # type: ignore[misc]
        return [msgspec.json.decode(value)["text"] for value in values]

    async def control_is_stored() -> bool:
        return control in await stored_questions()

    # A session each: an answer with a history would not be shared in any case.
    for text in (question, control):
        async with connected_client(precomputing, "customer-002") as client:
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
    precomputing: Stack, redis: Redis, plain: Connect
) -> None:
    async with connected_client(precomputing, "customer-009", "redis") as client:
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


async def test_requested_warming_is_generated_and_served(precomputing: Stack, redis: Redis) -> None:
    """With the product's own command."""
    from mangalib.precompute.warming.plans import popular

    log = precomputing.settings.data_dir / "example_sessions.csv"
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
    environment = {"MANGA_REDIS_URL": precomputing.addresses["redis_url"], "PATH": "/usr/bin:/bin"}
    for key in await redis.keys("answer:*"):
        await redis.delete(key)
    done = await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "3 answers requested for popular\n", done.stderr
    catalogue = Catalogue.load(precomputing.settings.data_dir / "catalogue.csv")
    reader = MeaningReader(catalogue)
    topics = await asyncio.to_thread(Topics.from_data, precomputing.settings, reader)
    canonical = popular(await asyncio.to_thread(read_table, log), 3)
    questions = {question: standard_wording(question, catalogue.by_id[question.title]) for question in canonical}
    keys = [
        answer_key(topics.by_name[question.topic].intent, question.topic, reader.read(text))
        for question, text in questions.items()
    ]

    async def all_there() -> bool:
        return await redis.exists(*keys) == len(keys)

    async with _frequent_batches(precomputing):
        await until(all_there, within_s=40)
    async with connected_client(precomputing, "customer-010", "warmed") as client:
        for text in questions.values():
            assert source(await client.answer(text)) in {"semantic_cache", "trending"}
    learn = [sys.executable, "-m", "mangalib.cli", "cache-learn"]
    done = await asyncio.to_thread(subprocess.run, learn, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == f"learned from {await redis.hlen('shared:questions')} questions\n", done.stderr  # type: ignore[misc]
    assert await redis.exists("shared:learned"), "where orchestrators reload it from"


async def test_a_catalogue_change_regenerates_exactly_the_answers_that_mention_the_title(
    precomputing: Stack, redis: Redis, tmp_path: Path
) -> None:
    """With the product's own command."""
    rows = (precomputing.settings.data_dir / "catalogue.csv").read_text(encoding="utf-8").splitlines()
    old = next(row for row in rows if row.startswith("m287,"))
    fields = old.rsplit(",", 2)
    (tmp_path / "old.csv").write_text("\n".join([rows[0], old]), encoding="utf-8")
    (tmp_path / "new.csv").write_text("\n".join([rows[0], f"{fields[0]},77.77,{fields[2]}"]), encoding="utf-8")

    async def publish(file: str) -> str:
        command = [sys.executable, "-m", "mangalib.cli", "catalogue-changed", "--titles", str(tmp_path / file)]
        environment = {"MANGA_REDIS_URL": precomputing.addresses["redis_url"], "PATH": "/usr/bin:/bin"}
        done = await asyncio.to_thread(
            subprocess.run, command, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    async with connected_client(precomputing, "customer-010", "hook") as client:
        await client.answer("How much does Berserk cost?")
        await client.answer("How much does Vinland Saga cost?")
        about_title = {key for key in await answers_about(redis, "m287") if await redis.exists(key)}
        before = {key.decode(): await redis.get(key) for key in await redis.keys("answer:*")}
        assert "1 titles changed" in await publish("new.csv")
        after = {key: await redis.get(key) for key in before}
        assert {key for key in before if after[key] != before[key]} == about_title

        async def all_regenerated() -> bool:
            return await answers_about(redis, "m287") >= about_title

        async with _frequent_batches(precomputing):
            await until(all_regenerated, within_s=20)
        (new,) = Catalogue.load(tmp_path / "new.csv").items
        for key in await answers_about(redis, "m287"):
            value = await redis.get(key)
            assert value is not None
            assert msgspec.json.decode(value, type=GeneratedAnswer).depends["m287"] == title_fingerprint(new), (
                "generated from the new price"
            )
        # Requested by the command or found missing by the batch, whichever came first.
        assert source(await client.answer("How much does Berserk cost?")) in {"semantic_cache", "trending"}
        await publish("old.csv")


async def answers_about(redis: Redis, manga_id: str) -> set[str]:
    return {key.decode() for key in await redis.smembers(about_key(manga_id))}  # type: ignore[misc]


@asynccontextmanager
async def _frequent_batches(stack: Stack) -> AsyncIterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        async with orchestrator_here(stack, monkeypatch, beside=True, trending_every_s=2):
            yield
