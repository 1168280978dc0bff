"""The semantic cache: answers shared by all customers, in Redis, used by any number of orchestrators.

The key of an answer holds what is asked for (a topic, or the label of a stored question) and everything that must be
equal: language, titles, numbers, names, negation. The stored questions are in Redis too; each orchestrator mirrors them in
memory and follows a log of changes, so a look-up is one step in memory and one round trip to Redis.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from redis.asyncio import Redis

from mangalib.domain import Intent
from mangalib.nlu import Meaning, MeaningReader, ParsedQuestion, Recognised, Recogniser, exact_key, folded_question
from mangalib.precompute.generated_answer import GeneratedAnswer, scope_key
from mangalib.resilience import refresh_periodically, try_refresh
from mangalib.settings import CacheSettings

_QUESTIONS, USED_KEY, _LOG, _MODELS = "shared:questions", "shared:used", "shared:log", "shared:learned"
_DUE = "shared:due"
_LOG_ENTRIES_MAX = 10_000
_EVICTED_AT_ONCE = 100
_SYNC = "mirroring the semantic cache"


class StoredQuestion(msgspec.Struct, frozen=True):
    """A stored question and the label of its answer."""

    text: str
    label: str


class SharedAnswers:
    """The cache as one process sees it. Methods raise ``RedisError``, ``OSError`` or ``TimeoutError`` when Redis fails."""

    def __init__(self, redis: Redis, reader: MeaningReader, settings: CacheSettings) -> None:
        self._redis: Any = redis  # redis-py's types do not know that answers are bytes here
        self._reader = reader
        self._settings = settings
        self._recogniser = Recogniser(settings)
        self._last_change = "0"
        self._loaded = False

    def __len__(self) -> int:
        return len(self._recogniser)

    # Look-up

    def recognise(self, question: ParsedQuestion) -> Recognised | None:
        """The most probable label of the question's answer, accepted or not; ``None`` when nothing comparable is stored."""
        return self._recogniser.recognise(question.text, question.meaning, question.embedding)

    # Storing

    async def put(self, intent: Intent, label: str, meaning: Meaning, text: str, answer: GeneratedAnswer) -> None:
        """Store an answer that is right for all customers: an approved one until it is replaced, others up to the hard limit."""
        key = answer_key(intent, label, meaning)
        lifetime_s = self._settings.cache_stale_max_s if answer.built_on else None
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.set(key, msgspec.json.encode(answer), ex=lifetime_s)
            if answer.need:
                pipe.zadd(_DUE, {answer.need: answer.fresh_until_s})
            for name in answer.depends:
                pipe.sadd(about_key(name), key)
                pipe.expire(about_key(name), self._settings.cache_stale_max_s)
            await pipe.execute()
        await self.store_all([(text, meaning, label)])

    async def store_all(self, questions: Sequence[tuple[str, Meaning, str]]) -> None:
        """Store many questions at once, each with its meaning and the label of its answer."""
        keys = [exact_key(text, meaning) for text, meaning, _ in questions]
        now_s = time.time()
        async with self._redis.pipeline(transaction=True) as pipe:
            for key, (text, _, label) in zip(keys, questions, strict=True):
                pipe.hset(_QUESTIONS, key, msgspec.json.encode(StoredQuestion(text, label)))
                pipe.zadd(USED_KEY, {key: now_s})
                pipe.xadd(_LOG, {"stored": key}, maxlen=_LOG_ENTRIES_MAX, approximate=True)
            pipe.zcard(USED_KEY)
            *_, size = await pipe.execute()
        self._recogniser.add(questions)
        if size > self._settings.cache_entries_max:
            await self._evict(size - self._settings.cache_entries_max)

    async def _evict(self, excess: int) -> None:
        oldest = await self._redis.zpopmin(
            USED_KEY, max(excess, min(_EVICTED_AT_ONCE, self._settings.cache_entries_max // 100))
        )
        evicted = [question for question, _ in oldest]
        if evicted:
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.hdel(_QUESTIONS, *evicted)
                for question in evicted:
                    pipe.xadd(_LOG, {"evicted": question}, maxlen=_LOG_ENTRIES_MAX, approximate=True)
                await pipe.execute()
        for question in evicted:
            self._recogniser.remove(question.decode())

    async def due(self, before_s: float, count: int) -> list[str]:
        """Keys of the canonical questions whose answers are no longer fresh at ``before_s``, the most overdue first."""
        return [
            question.decode() for question in await self._redis.zrangebyscore(_DUE, 0, before_s, start=0, num=count)
        ]

    async def no_longer_due(self, question: str) -> None:
        """Stop refreshing the answer to a canonical question."""
        await self._redis.zrem(_DUE, question)

    # Feedback and learning

    async def record_feedback(self, language: str, label: str, probability: float, right: bool) -> None:
        """Record feedback on an answer given by similarity; its threshold moves, in all processes."""
        self._recogniser.record_feedback(language, label, probability, right)
        await self._publish()

    async def learn(self) -> None:
        """Learn anew from all stored questions how much evidence is enough; takes seconds, in a thread."""
        await asyncio.to_thread(self._recogniser.learn)
        await self._publish()

    async def _publish(self) -> None:
        await self._redis.set(_MODELS, self._recogniser.dump())
        await self._redis.xadd(_LOG, {"learned": "1"}, maxlen=_LOG_ENTRIES_MAX, approximate=True)

    # Mirroring

    async def load(self) -> None:
        """Load all stored questions from Redis."""
        newest = await self._redis.xrevrange(_LOG, count=1)
        self._last_change = newest[0][0].decode() if newest else "0"
        batch: list[StoredQuestion] = []
        async for _, value in self._redis.hscan_iter(_QUESTIONS, count=1000):
            batch.append(msgspec.json.decode(value, type=StoredQuestion))
            if len(batch) == 1000:
                self._mirror(batch)
                batch = []
                await asyncio.sleep(0)
        self._mirror(batch)
        models = await self._redis.get(_MODELS)
        if models is not None:
            self._recogniser.load(models)

    async def follow(self) -> None:
        """Apply what other processes store, evict and learn, until cancelled.

        At first, and after a failure, everything is loaded again.
        """
        await try_refresh(_SYNC, self._sync)
        await refresh_periodically(_SYNC, self._settings.cache_sync_s, self._sync)

    async def _sync(self) -> None:
        loaded, self._loaded = self._loaded, False
        if not loaded:
            await self.load()
        await self._catch_up()
        self._loaded = True

    async def _catch_up(self) -> None:
        changes = await self._redis.xrange(
            _LOG, min=f"({self._last_change}" if self._last_change != "0" else "-", count=1000
        )
        if not changes:
            return
        self._last_change = changes[-1][0].decode()
        stored = [change[b"stored"] for _, change in changes if b"stored" in change]
        values = await self._redis.hmget(_QUESTIONS, stored) if stored else []
        self._mirror([msgspec.json.decode(value, type=StoredQuestion) for value in values if value is not None])
        for _, change in changes:
            if b"evicted" in change:
                self._recogniser.remove(change[b"evicted"].decode())
        if any(b"learned" in change for _, change in changes):
            models = await self._redis.get(_MODELS)
            if models is not None:
                self._recogniser.load(models)

    def _mirror(self, questions: list[StoredQuestion]) -> None:
        self._recogniser.add([(q.text, self._reader.read(q.text), q.label) for q in questions])


def own_label(text: str, meaning: Meaning) -> str:
    """The label of a question that has an answer of its own."""
    return "question:" + scope_key(meaning.language, folded_question(text))[:16]


def answer_key(intent: Intent, label: str, meaning: Meaning) -> str:
    """The Redis key of an answer; two questions share it only if everything that must be equal is."""
    return "answer:" + scope_key(intent, label, repr(meaning.values))


def about_key(name: str) -> str:
    """The Redis key of the set of all answers that depend on ``name``."""
    return f"shared:about:{name}"


async def drop_about(redis: Redis, name: str) -> list[str]:
    """Delete every shared answer that depends on ``name``; returns the keys of their canonical questions."""
    client: Any = redis
    keys = [key.decode() for key in await client.smembers(about_key(name))]
    if not keys:
        return []
    values = await client.mget(keys)
    questions = [msgspec.json.decode(value, type=GeneratedAnswer).need for value in values if value is not None]
    await client.delete(about_key(name), *keys)
    return sorted({question for question in questions if question})
