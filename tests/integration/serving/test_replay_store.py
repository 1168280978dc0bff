"""The replay store in the stack's real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError

from mangalib.local.stack import Stack
from mangalib.protocol.frames import Chunk, Query, encode
from mangalib.serving.answer_record import AnswerRecord, StreamState
from mangalib.serving.replay_store import ReplayStore


@pytest.fixture
async def redis(stack: Stack) -> AsyncIterator[Redis]:
    client = Redis.from_url(stack.addresses["redis_url"])
    yield client
    await client.aclose()


def head(text: str) -> AnswerRecord:
    return AnswerRecord("session", Query(text), StreamState.STREAMING)


async def test_frames_come_back_in_order_however_they_were_written(redis: Redis) -> None:
    store = ReplayStore(redis, ttl_s=60)
    await store.save("c", "order", head("a"), [b"0", b"1"], 0)
    await store.save("c", "order", head("ab"), [b"1", b"2"], 1)
    await store.save("c", "order", head("ab"), [b"1", b"2"], 1)
    recorded = await store.load("c", "order")
    assert recorded is not None
    assert recorded.frames == [b"0", b"1", b"2"]
    assert recorded.record.query.text == "ab"


async def test_the_record_is_written_only_when_it_has_changed(redis: Redis) -> None:
    store = ReplayStore(redis, ttl_s=60)
    frames = [encode(Chunk(text, "record", seq)) for seq, text in enumerate(["One", " Piece", "!"])]
    await store.save("c", "record", head("asked"), frames[:1], 0)
    await store.save("c", "record", None, frames[1:], 1)
    recorded = await store.load("c", "record")
    assert recorded is not None
    assert (recorded.record, recorded.frames, recorded.text) == (head("asked"), frames, "One Piece!")


class Counted(Redis):
    """Counts its round trips."""

    trips = 0

    def pipeline(self, *args: Any, **kwargs: Any) -> Pipeline:
        self.trips += 1
        return super().pipeline(*args, **kwargs)


async def test_frames_that_arrive_during_a_write_go_out_in_the_next_group_commit(stack: Stack) -> None:
    async with Counted.from_url(stack.addresses["redis_url"]) as redis:
        store = ReplayStore(redis, ttl_s=60)
        await asyncio.gather(*(store.save("c", f"together {n}", head(f"{n}"), [b"0"], 0) for n in range(50)))
        assert redis.trips == 2
        found = [await store.load("c", f"together {n}") for n in range(50)]
    assert [recorded.record.query.text for recorded in found if recorded is not None] == [f"{n}" for n in range(50)]


async def test_a_cancelled_write_leaves_the_others_of_its_group_alone(redis: Redis) -> None:
    store = ReplayStore(redis, ttl_s=60)
    await redis.client_pause(10_000, all=False)  # writes wait
    try:
        impatient = asyncio.create_task(store.save("c", "impatient", head("a"), [b"0"], 0))
        patient = [asyncio.create_task(store.save("c", f"patient {n}", head("b"), [b"0"], 0)) for n in range(3)]
        while not any("b" in client["flags"] for client in await redis.client_list()):
            await asyncio.sleep(0.01)
        also_impatient = patient.pop()
        for task in (impatient, also_impatient):
            task.cancel()
            await asyncio.wait([task])
    finally:
        await redis.client_unpause()
    await asyncio.gather(*patient)
    assert [task.cancelled() for task in (impatient, also_impatient)] == [True, True]
    assert all([await store.load("c", f"patient {n}") for n in range(2)])


async def test_a_failed_group_commit_is_reported_to_each_writer() -> None:
    unreachable = Redis.from_url("redis://127.0.0.1:9", retry=None)
    store = ReplayStore(unreachable, ttl_s=60)
    saves = (store.save("c", f"lost {n}", head("a"), [b"0"], 0) for n in range(3))
    found = await asyncio.gather(*saves, return_exceptions=True)
    assert [type(error) for error in found] == [RedisConnectionError] * 3


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


async def test_an_answer_expires_after_its_time_to_live(redis: Redis) -> None:
    others = set(await redis.keys("replay:*"))  # of other tests; any of them may end right now
    await ReplayStore(redis, ttl_s=300).save("c", "ttl", head("a"), [b"0"], 0)
    left = [await redis.ttl(key) for key in set(await redis.keys("replay:*")) - others]
    assert left
    assert all(0 < seconds <= 300 for seconds in left)


class ReplayLife(RuleBasedStateMachine):
    """Two customers and two answers, whose frames are written in any pieces, again, and from the start; read back at any time."""

    owners = st.sampled_from(["one", "other"])
    answers = st.sampled_from(["a", "b"])

    def __init__(self, url: str) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.redis = Redis.from_url(url)
        self.loop.run_until_complete(self.redis.flushdb())
        self.store = ReplayStore(self.redis, ttl_s=60)
        self.kept: dict[tuple[str, str], list[bytes]] = {}

    def teardown(self) -> None:
        self.loop.run_until_complete(self.redis.aclose())
        self.loop.close()

    def _save(self, key: tuple[str, str], first_seq: int) -> None:
        frames = self.kept[key]
        text = f"{len(frames)}"
        self.loop.run_until_complete(self.store.save(*key, head(text), frames[first_seq:], first_seq))

    @rule(owner=owners, answer=answers, frames=st.lists(st.binary(max_size=20), max_size=4))
    def more_frames(self, owner: str, answer: str, frames: list[bytes]) -> None:
        kept = self.kept.setdefault((owner, answer), [])
        written = len(kept)
        kept += frames
        self._save((owner, answer), written)

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def written_again(self, data: st.DataObject) -> None:
        """A write that was thought to have failed."""
        key = data.draw(st.sampled_from(sorted(self.kept)))
        self._save(key, data.draw(st.integers(0, len(self.kept[key]))))

    @rule(owner=owners, answer=answers, frame=st.binary(max_size=20))
    def a_new_answer_of_the_same_name(self, owner: str, answer: str, frame: bytes) -> None:
        self.kept[owner, answer] = [frame]
        self._save((owner, answer), 0)

    @rule(owner=owners, answer=answers, seq=st.integers(-1, 6))
    def read_back(self, owner: str, answer: str, seq: int) -> None:
        recorded = self.loop.run_until_complete(self.store.load(owner, answer))
        kept = self.kept.get((owner, answer))
        if kept is None:
            assert recorded is None
            return
        assert recorded is not None
        assert recorded.frames == kept
        assert recorded.record.query.text == f"{len(kept)}"
        assert recorded.lacks(seq) == (seq >= len(kept))


def test_frames_are_read_as_written_whatever_the_order_of_the_writes(stack: Stack) -> None:
    # A database of its own, which it may empty.
    url = f"{stack.addresses['redis_url']}/9"
    run_state_machine_as_test(lambda: ReplayLife(url), settings=settings(max_examples=40, deadline=None))
