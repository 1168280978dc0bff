"""The replay buffer and the shared answers, in the stack's real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from mangalib.local.stack import Stack
from mangalib.serving.messages import Query
from mangalib.serving.replay import Head, ReplayStore
from mangalib.serving.stream import StreamState


@pytest.fixture
async def redis(stack: Stack) -> AsyncIterator[Redis]:
    client = Redis.from_url(stack.addresses["redis_url"])
    yield client
    await client.aclose()


def head(text: str) -> Head:
    return Head("session", Query(text), StreamState.STREAMING, text=text)


async def test_frames_come_back_in_order_however_they_were_written(redis: Redis) -> None:
    store = ReplayStore(redis, ttl_s=60)
    await store.save("c", "order", head("a"), [b"0", b"1"], 0)
    await store.save("c", "order", head("ab"), [b"1", b"2"], 1)
    await store.save("c", "order", head("ab"), [b"1", b"2"], 1)
    recorded = await store.load("c", "order")
    assert recorded is not None
    assert recorded.frames == [b"0", b"1", b"2"]
    assert recorded.head.text == "ab"


async def test_a_request_id_used_again_names_the_newer_answer(redis: Redis) -> None:
    store = ReplayStore(redis, ttl_s=60)
    await store.save("c", "again", head("old"), [b"0", b"1", b"2"], 0)
    await store.save("c", "again", head("new"), [b"x"], 0)
    recorded = await store.load("c", "again")
    assert recorded is not None
    assert recorded.frames == [b"x"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a:b", "c"), ("a", "b:c")),
        (('a", "b', "c"), ("a", 'b", "c')),
        (("a", "b:head"), ("a:b", "head")),
        (("Å", "x"), ("A\u030a", "x")),
    ],
)
async def test_no_choice_of_ids_reaches_another_customers_answer(
    redis: Redis, one: tuple[str, str], other: tuple[str, str]
) -> None:
    store = ReplayStore(redis, ttl_s=60)
    await store.save(*one, head("private"), [b"0"], 0)
    assert await store.load(*other) is None


async def test_it_is_kept_for_its_time_only(redis: Redis) -> None:
    await ReplayStore(redis, ttl_s=300).save("c", "ttl", head("a"), [b"0"], 0)
    left = [await redis.ttl(key) for key in await redis.keys("replay:*")]
    assert left
    assert all(0 < seconds <= 300 for seconds in left)
