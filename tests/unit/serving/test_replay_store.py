"""The replay store's rules, on a scripted Redis: what is written together, and who gets the error of a failed write."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from mangalib.protocol import Query
from mangalib.serving.answer_record import AnswerRecord, StreamState
from mangalib.serving.replay_store import ReplayStore

RECORD = AnswerRecord("session", Query("May I return a book?"), StreamState.STREAMING)


class ScriptedRedis:
    """Pipelines that note their commands, and end as the test says."""

    def __init__(self) -> None:
        self.trips: list[list[tuple[Any, ...]]] = []
        self.replies: list[Any] = []
        self.fails: Exception | None = None
        self.gate: asyncio.Event | None = None

    def pipeline(self, *, transaction: bool) -> ScriptedPipeline:
        assert transaction
        return ScriptedPipeline(self)


class ScriptedPipeline:
    def __init__(self, redis: ScriptedRedis) -> None:
        self._redis = redis
        self._commands: list[tuple[Any, ...]] = []

    async def __aenter__(self) -> ScriptedPipeline:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        return None

    def __getattr__(self, command: str) -> Any:
        return lambda *arguments, **options: self._commands.append((command, *arguments, *options.values()))

    async def execute(self) -> list[Any]:
        self._redis.trips.append(self._commands)
        if self._redis.gate is not None:
            await self._redis.gate.wait()
        if self._redis.fails is not None:
            raise self._redis.fails
        return self._redis.replies


@pytest.fixture
def redis() -> ScriptedRedis:
    return ScriptedRedis()


@pytest.fixture
def store(redis: ScriptedRedis) -> ReplayStore:
    return ReplayStore(redis, ttl_s=60)  # type: ignore[arg-type]


def commands(redis: ScriptedRedis) -> list[list[str]]:
    return [[command[0] for command in trip] for trip in redis.trips]


async def test_the_first_write_replaces_what_an_older_answer_left(redis: ScriptedRedis, store: ReplayStore) -> None:
    await store.save("c", "r", RECORD, [b"0"], 0)
    await store.save("c", "r", RECORD, [b"1"], 1)
    await store.save("c", "r", None, [], 2)
    assert commands(redis) == [["delete", "set", "hset", "expire"], ["set", "hset", "expire"], ["expire"]]
    assert redis.trips[1][1][2] == ["1", b"1"], "frames are stored by their seq"


async def test_frames_that_arrive_during_a_write_go_out_in_the_next_group_commit(
    redis: ScriptedRedis, store: ReplayStore
) -> None:
    redis.gate = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(store.save("c", str(number), None, [b"x"], 1))
        while len(redis.trips) < 1:
            await asyncio.sleep(0)
        redis.gate.set()
    assert [len(trip) for trip in redis.trips] == [2, 8]


async def test_a_failed_group_commit_is_reported_to_each_writer(redis: ScriptedRedis, store: ReplayStore) -> None:
    redis.gate, redis.fails = asyncio.Event(), RedisConnectionError("gone")
    saves = [asyncio.create_task(store.save("c", str(number), None, [b"x"], 1)) for number in range(3)]
    while not redis.trips:
        await asyncio.sleep(0)
    redis.gate.set()
    outcomes = await asyncio.gather(*saves, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [RedisConnectionError] * 3


async def test_a_write_that_is_cancelled_takes_only_its_own_frames_with_it(
    redis: ScriptedRedis, store: ReplayStore
) -> None:
    redis.gate = asyncio.Event()
    first = asyncio.create_task(store.save("c", "first", None, [b"x"], 1))
    while not redis.trips:
        await asyncio.sleep(0)
    waiting = [asyncio.create_task(store.save("c", name, None, [b"x"], 1)) for name in ("one", "two")]
    await asyncio.sleep(0)
    first_gate, redis.gate = redis.gate, asyncio.Event()
    first_gate.set()
    await first
    while len(redis.trips) < 2:
        await asyncio.sleep(0)
    waiting[0].cancel()
    redis.gate.set()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError, type(None)]
    assert [len(trip) for trip in redis.trips] == [2, 4, 2]


async def test_an_answer_is_read_back_in_the_order_of_its_frames(redis: ScriptedRedis, store: ReplayStore) -> None:
    redis.replies = [msgspec.json.encode(RECORD), {b"10": b"k", b"2": b"c", b"0": b"a"}]
    found = await store.load("c", "r")
    assert found is not None
    assert (found.record, found.frames) == (RECORD, [b"a", b"c", b"k"])
    assert not found.lacks(2)
    assert found.lacks(3)


async def test_an_answer_that_never_was_is_none(redis: ScriptedRedis, store: ReplayStore) -> None:
    redis.replies = [None, {}]
    assert await store.load("c", "r") is None


async def test_no_customer_can_name_anothers_answer(redis: ScriptedRedis, store: ReplayStore) -> None:
    await store.save("ab", "c", None, [], 1)
    await store.save("a", "bc", None, [], 1)
    assert redis.trips[0][0][1] != redis.trips[1][0][1]
