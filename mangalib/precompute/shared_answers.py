"""The semantic cache: answers for everybody, in Redis, used by any number of orchestrators at once.

An answer is kept under what is asked for (a topic and its title, or the label of a stored question) and everything that
must agree: language, titles, numbers, names, negation. Stored questions lie in Redis too; each orchestrator mirrors
them in memory and follows a log of changes, so that a look-up is one step in memory and one request to Redis.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from mangalib.domain import Intent
from mangalib.nlu import Meaning, MeaningReader, Recognised, Recogniser, exact_key, folded_question
from mangalib.precompute.generated_answer import GeneratedAnswer, scope_key
from mangalib.resilience import end_if_cancelled
from mangalib.settings import Settings

log = logging.getLogger(__name__)

_QUESTIONS, _USED, _LOG, _LEARNED = "shared:questions", "shared:used", "shared:log", "shared:learned"
_DUE = "shared:due"
_LOG_KEPT = 10_000
_EVICTED_AT_ONCE = 100


class StoredQuestion(msgspec.Struct, frozen=True):
    """A question whose answer is known, and under which label."""

    text: str
    label: str


class SharedAnswers:
    """The cache of one process. Methods raise ``RedisError``, ``OSError`` or ``TimeoutError`` when Redis cannot be asked."""

    def __init__(self, redis: Redis, reader: MeaningReader, settings: Settings) -> None:
        self._redis: Any = redis  # its types do not know that answers are bytes here
        self._reader = reader
        self._settings = settings
        self._recogniser = Recogniser(settings)
        self._seen = "0"

    def __len__(self) -> int:
        return len(self._recogniser)

    # Looking up

    def recognise(self, text: str, meaning: Meaning) -> Recognised | None:
        """Which stored label ``text`` asks for, as far as can be said."""
        return self._recogniser.recognise(text, meaning)

    async def get(self, intent: Intent, label: str, meaning: Meaning, text: str) -> GeneratedAnswer | None:
        """The answer under ``label`` for exactly what ``text`` is about."""
        found = await self._redis.get(answer_key(intent, label, meaning))
        if found is None:
            return None
        await self._redis.zadd(_USED, {exact_key(text, meaning): time.time()}, xx=True)
        return msgspec.json.decode(found, type=GeneratedAnswer)

    # Keeping

    async def put(self, intent: Intent, label: str, meaning: Meaning, text: str, prepared: GeneratedAnswer) -> None:
        """Keep an answer that is right for every customer; an approved one until it is replaced, others up to the hard limit."""
        key = answer_key(intent, label, meaning)
        lifetime_s = self._settings.cache_stale_max_s if prepared.built_on else None
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.set(key, msgspec.json.encode(prepared), ex=lifetime_s)
            if prepared.need:
                pipe.zadd(_DUE, {prepared.need: prepared.fresh_until_s})
            for name in prepared.depends:
                pipe.sadd(about_key(name), key)
                pipe.expire(about_key(name), self._settings.cache_stale_max_s)
            await pipe.execute()
        await self.store_all([(text, meaning, label)])

    async def store_all(self, questions: Sequence[tuple[str, Meaning, str]]) -> None:
        """Remember many at once, each with its meaning and the label of its answer."""
        keys = [exact_key(text, meaning) for text, meaning, _ in questions]
        now_s = time.time()
        async with self._redis.pipeline(transaction=True) as pipe:
            for key, (text, _, label) in zip(keys, questions, strict=True):
                pipe.hset(_QUESTIONS, key, msgspec.json.encode(StoredQuestion(text, label)))
                pipe.zadd(_USED, {key: now_s})
                pipe.xadd(_LOG, {"stored": key}, maxlen=_LOG_KEPT, approximate=True)
            pipe.zcard(_USED)
            *_, size = await pipe.execute()
        self._recogniser.add(questions)
        if size > self._settings.cache_entries_max:
            await self._evict(size - self._settings.cache_entries_max)

    async def _evict(self, over: int) -> None:
        oldest = await self._redis.zpopmin(
            _USED, max(over, min(_EVICTED_AT_ONCE, self._settings.cache_entries_max // 100))
        )
        gone = [question for question, _ in oldest]
        if gone:
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.hdel(_QUESTIONS, *gone)
                for question in gone:
                    pipe.xadd(_LOG, {"evicted": question}, maxlen=_LOG_KEPT, approximate=True)
                await pipe.execute()
        for question in gone:
            self._recogniser.remove(question.decode())

    async def due(self, before_s: float, count: int) -> list[str]:
        """Needs whose answer is no longer fresh by then, the most overdue first."""
        return [need.decode() for need in await self._redis.zrangebyscore(_DUE, 0, before_s, start=0, num=count)]

    async def no_longer_due(self, need: str) -> None:
        """Nobody will refresh it any more."""
        await self._redis.zrem(_DUE, need)

    # Feedback and learning

    async def record_feedback(self, language: str, label: str, probability: float, right: bool) -> None:
        """Feedback on an answer that was given by similarity: its threshold moves, everywhere."""
        self._recogniser.record_feedback(language, label, probability, right)
        await self._publish()

    async def learn(self) -> None:
        """Learn anew from all stored questions how much evidence is enough; in a thread, for seconds."""
        await asyncio.to_thread(self._recogniser.learn)
        await self._publish()

    async def _publish(self) -> None:
        await self._redis.set(_LEARNED, self._recogniser.dump())
        await self._redis.xadd(_LOG, {"learned": "1"}, maxlen=_LOG_KEPT, approximate=True)

    # Mirroring

    async def load(self) -> None:
        """Fill the mirror from Redis."""
        newest = await self._redis.xrevrange(_LOG, count=1)
        self._seen = newest[0][0].decode() if newest else "0"
        batch: list[StoredQuestion] = []
        async for _, value in self._redis.hscan_iter(_QUESTIONS, count=1000):
            batch.append(msgspec.json.decode(value, type=StoredQuestion))
            if len(batch) == 1000:
                self._mirror(batch)
                batch = []
                await asyncio.sleep(0)
        self._mirror(batch)
        learned = await self._redis.get(_LEARNED)
        if learned is not None:
            self._recogniser.load(learned)

    async def follow(self) -> None:
        """Follow what others store, evict and learn.

        Runs until cancelled. Afterwards, and when Redis was away, it reads all anew.
        """
        whole = False
        while True:
            try:
                if not whole:
                    await self.load()
                    whole = True
                await self._catch_up()
            except (RedisError, OSError, TimeoutError) as error:
                log.warning("the semantic cache cannot follow Redis: %s", type(error).__name__)
                whole = False
            end_if_cancelled()
            await asyncio.sleep(self._settings.cache_sync_s)

    async def _catch_up(self) -> None:
        changes = await self._redis.xrange(_LOG, min=f"({self._seen}" if self._seen != "0" else "-", count=1000)
        if not changes:
            return
        self._seen = changes[-1][0].decode()
        stored = [change[b"stored"] for _, change in changes if b"stored" in change]
        found = await self._redis.hmget(_QUESTIONS, stored) if stored else []
        self._mirror([msgspec.json.decode(value, type=StoredQuestion) for value in found if value is not None])
        for _, change in changes:
            if b"evicted" in change:
                self._recogniser.remove(change[b"evicted"].decode())
        if any(b"learned" in change for _, change in changes):
            learned = await self._redis.get(_LEARNED)
            if learned is not None:
                self._recogniser.load(learned)

    def _mirror(self, questions: list[StoredQuestion]) -> None:
        self._recogniser.add([(q.text, self._reader.read(q.text), q.label) for q in questions])


def own_label(text: str, meaning: Meaning) -> str:
    """The label of a question that is like no other."""
    return "question:" + scope_key(meaning.language, folded_question(text))[:16]


def answer_key(intent: Intent, label: str, meaning: Meaning) -> str:
    """Where the answer lies; two questions meet there only when all that must agree does."""
    return "answer:" + scope_key(intent, label, repr(meaning.values))


def about_key(name: str) -> str:
    """Where the keys of all answers lie that depend on ``name``."""
    return f"shared:about:{name}"


async def drop_about(redis: Redis, name: str) -> list[str]:
    """End every shared answer that depends on ``name``; returns the needs that they met."""
    client: Any = redis
    keys = [key.decode() for key in await client.smembers(about_key(name))]
    if not keys:
        return []
    found = await client.mget(keys)
    needs = [msgspec.json.decode(value, type=GeneratedAnswer).need for value in found if value is not None]
    await client.delete(about_key(name), *keys)
    return sorted({need for need in needs if need})
