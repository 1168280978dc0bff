"""Generates shared answers in the background: what is trending, about to expire, requested, or outdated by the catalogue.

Any number of orchestrators run this. A lock in Redis lets one at a time look for work, and single flight generates each
answer once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio import Redis

from mangalib.domain import ROUTES, Manga, Release
from mangalib.nlu import MeaningReader, Topics
from mangalib.precompute.background import BackgroundQueue
from mangalib.precompute.facts import Facts, publish_facts
from mangalib.precompute.generated_answer import (
    SEMANTIC,
    TRENDING,
    CanonicalQuestion,
    GeneratedAnswer,
    storing_may_fail,
)
from mangalib.precompute.generation.generator import AnswerGenerator
from mangalib.precompute.generation.single_flight import Generation, SingleFlight, WriteText
from mangalib.precompute.generation.spec import is_predictable, over_budget, shared_answer_spec, standard_wording
from mangalib.precompute.shared_answers import SharedAnswers, answer_key, drop_about
from mangalib.precompute.token_budget import TokenBudget
from mangalib.precompute.warming.demand import Demand
from mangalib.precompute.warming.plans import Program
from mangalib.resilience import refresh_periodically
from mangalib.settings import PrecomputeSettings

_LOCK = "lock:batch"
_REQUESTS = "warming:wanted"
_REQUESTS_AT_ONCE = 500
_REFRESH = "refresh"
_LANGUAGES = ("en", "ja")


class WarmingBatch:
    """Generates shared answers, in the background or for a customer who is waiting; :meth:`repeat` runs as a task."""

    def __init__(
        self,
        redis: Redis,
        generator: AnswerGenerator,
        shared: SharedAnswers,
        single_flight: SingleFlight,
        background: BackgroundQueue,
        demand: Demand,
        facts: Facts,
        topics: Topics,
        reader: MeaningReader,
        release: Callable[[], Release],
        settings: PrecomputeSettings,
    ) -> None:
        self._redis: Any = redis  # redis-py's types do not know that answers are bytes here
        self._generator = generator
        self._shared = shared
        self._single_flight = single_flight
        self._background = background
        self._demand = demand
        self._facts = facts
        self._topics = topics
        self._reader = reader
        self._release = release
        self._settings = settings
        # One budget for each program, and one for refreshes.
        self._budgets = {
            name: TokenBudget(
                redis,
                f"batch:{name}",
                hour_tokens=settings.warming_hour_tokens,
                owner_tokens=24 * settings.warming_hour_tokens,
            )
            for name in (*Program, _REFRESH)
        }

    # In the background

    async def repeat(self) -> None:
        """Look for work every ``trending_every_s`` until cancelled."""
        await refresh_periodically("warming", self._settings.trending_every_s, self._look_for_work)

    async def _look_for_work(self) -> None:
        if self._release().optimisations.trending_answers and await self._acquire_lock():
            await self._queue_trending_and_expiring()
            await self._queue_requested()

    async def _queue_trending_and_expiring(self) -> None:
        """Queue trending answers that are missing, and those in demand that expire soon."""
        settings, now_s = self._settings, time.time()
        trending = await self._demand.top(settings.trending_titles)
        expiring = await self._shared.due(now_s + settings.refresh_ahead_s, settings.trending_titles)
        missing = []
        for key in trending:
            question = CanonicalQuestion.from_key(key)
            if self.is_shareable(question) and key not in expiring and not await self._is_stored(question):
                missing.append(key)
        in_demand = [
            key
            for key in expiring
            if key in trending or await self._demand.is_in_top(key, 5 * settings.trending_titles)
        ]
        for key in set(expiring) - set(in_demand):
            await self._shared.no_longer_due(key)
        for key in [*in_demand, *missing]:
            self._queue(CanonicalQuestion.from_key(key), Program.TRENDING, TRENDING)

    async def _queue_requested(self) -> None:
        """Queue what :func:`request_warming` has left in Redis."""
        requests = await self._redis.lpop(_REQUESTS, _REQUESTS_AT_ONCE) or []
        by_program: dict[str, list[CanonicalQuestion]] = {}
        for request in requests:
            program, _, key = request.decode().partition(" ")
            by_program.setdefault(program, []).append(CanonicalQuestion.from_key(key))
        for program, questions in by_program.items():
            await self._queue_missing(questions, program)

    async def _queue_missing(self, questions: Sequence[CanonicalQuestion], program: str) -> None:
        """Queue the answers that are not stored yet, the first the most valuable."""
        missing = [q for q in questions if self.is_shareable(q) and not await self._is_stored(q)]
        for position, question in enumerate(missing):
            # A request comes once, so it waits for as long as the answer would be fresh.
            within_s = self._settings.cache_fresh_s
            self._queue(question, program, SEMANTIC, value=1.0 / (1 + position), within_s=within_s)

    def _queue(
        self,
        question: CanonicalQuestion,
        program: str,
        source: str,
        *,
        value: float = 1.0,
        within_s: float | None = None,
    ) -> None:
        async def work() -> None:
            generation = self._single_flight.start(
                self.generation_key(question),
                lambda write: self._generate(self._generator, question, write, source=source, program=program),
            )
            if generation.task is not None:
                await asyncio.wait([generation.task])

        self._background.submit("batch", value, work, within_s=within_s or self._settings.trending_every_s)

    # For a live query

    def refresh(self, question: CanonicalQuestion, source: str, program: str) -> None:
        """Queue a new generation of a stored answer, which is served meanwhile."""
        self._queue(question, program, source)

    def running(self, key: str) -> Generation | None:
        """The generation of a shared answer that is running in this process, by :meth:`generation_key`."""
        return self._single_flight.running(key)

    def start(self, generator: AnswerGenerator, question: CanonicalQuestion) -> Generation:
        """Generate a shared answer for a customer who is waiting."""
        return self._single_flight.start(
            self.generation_key(question),
            lambda write: self._generate(generator, question, write, source=SEMANTIC, program=""),
        )

    def is_shareable(self, question: CanonicalQuestion) -> bool:
        """Whether one answer to it may be served to all customers."""
        topic = self._topics.by_name.get(question.topic)
        return (
            topic is not None
            and is_predictable(topic)
            and topic.about_title == bool(question.title)
            and question.language in _LANGUAGES
            and ROUTES[topic.intent].shareable
        )

    def generation_key(self, question: CanonicalQuestion) -> str:
        """The key of the shared answer's generation."""
        return f"shared:{question.key}"

    async def _generate(
        self, generator: AnswerGenerator, question: CanonicalQuestion, write: WriteText, *, source: str, program: str
    ) -> GeneratedAnswer:
        """Generate and store a shared answer; background work is charged to the program's budget."""
        release = self._release()
        spec = shared_answer_spec(question, self._topics.by_name[question.topic], release, self._settings)
        request = await generator.prepare(spec, release, "", "")
        budget, reservation = self._budgets[program or _REFRESH], None
        if generator is self._generator:
            reservation = await budget.reserve("all", request.model_request)
            if reservation is None:
                raise over_budget(program or _REFRESH)
        answer = await generator.generate(request, release, write, source=source, program=program)
        with storing_may_fail():
            if reservation is not None:
                await budget.settle(reservation, answer.tokens)
            await self._store(question, answer)
        return answer

    async def _store(self, question: CanonicalQuestion, answer: GeneratedAnswer) -> None:
        title = (await self._facts.titles([question.title])).get(question.title)
        text = standard_wording(question, title)
        await self._shared.put(answer.intent, question.topic, self._reader.read(text), text, answer)

    async def _is_stored(self, question: CanonicalQuestion) -> bool:
        """Whether the answer is stored; true also for an unknown title, which cannot be answered."""
        title = (await self._facts.titles([question.title])).get(question.title)
        if title is None:
            return True
        topic = self._topics.by_name[question.topic]
        meaning = self._reader.read(standard_wording(question, title))
        return bool(await self._redis.exists(answer_key(topic.intent, question.topic, meaning)))

    async def _acquire_lock(self) -> bool:
        lifetime_ms = int(self._settings.trending_every_s * 900)
        return bool(await self._redis.set(_LOCK, "1", nx=True, px=lifetime_ms))


async def request_warming(redis: Redis, questions: Sequence[CanonicalQuestion], program: str) -> None:
    """Request answers from the orchestrators, which generate the missing ones within the program's budget."""
    client: Any = redis
    if questions:
        await client.rpush(_REQUESTS, *(f"{program} {question.key}" for question in questions))


async def catalogue_changed(redis: Redis, titles: list[Manga]) -> list[str]:
    """Publish new facts of titles, drop the shared answers that depend on them and request these again; returns their keys."""
    await publish_facts(redis, titles)
    keys: set[str] = set()
    for title in titles:
        keys.update(await drop_about(redis, title.manga_id))
    await request_warming(redis, [CanonicalQuestion.from_key(key) for key in sorted(keys)], "")
    return sorted(keys)
