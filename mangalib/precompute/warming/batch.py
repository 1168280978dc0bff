"""Answers for everybody made in the background: what is trending, what is about to expire, what the catalogue has changed.

Any number of orchestrators run this; a lock in Redis lets one at a time look for work, and each answer is made in a
flight, so once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio import Redis

from mangalib.domain import ROUTES, Manga, Release
from mangalib.nlu import MeaningReader, Topics
from mangalib.precompute.background import Background
from mangalib.precompute.facts import Facts, publish_facts
from mangalib.precompute.generated_answer import SEMANTIC, TRENDING, GeneratedAnswer, Need, kept_if_possible
from mangalib.precompute.generation import spec as makers
from mangalib.precompute.generation.generator import AnswerGenerator
from mangalib.precompute.generation.single_flight import Generation, SingleFlight, Write
from mangalib.precompute.shared_answers import SharedAnswers, about_key, answer_key, drop_about
from mangalib.precompute.token_budget import Budget
from mangalib.precompute.warming.demand import Demand
from mangalib.precompute.warming.plans import PROGRAMS
from mangalib.precompute.warming.plans import TRENDING as TRENDING_PROGRAM
from mangalib.resilience import refresh_periodically
from mangalib.settings import Settings

log = logging.getLogger(__name__)

_LOCK = "lock:batch"
_WANTED = "warming:wanted"
_ORDERS_AT_ONCE = 500
REFRESH = "refresh"
_LANGUAGES = ("en", "ja")


class Batch:
    """Use :meth:`run` as a task; :meth:`warm` makes what a programme asks for."""

    def __init__(
        self,
        redis: Redis,
        generator: AnswerGenerator,
        shared: SharedAnswers,
        flights: SingleFlight,
        background: Background,
        demand: Demand,
        facts: Facts,
        topics: Topics,
        reader: MeaningReader,
        release: Callable[[], Release],
        settings: Settings,
    ) -> None:
        self._redis: Any = redis  # its types do not know that answers are bytes here
        self._generator = generator
        self._shared = shared
        self._flights = flights
        self._background = background
        self._demand = demand
        self._facts = facts
        self._topics = topics
        self._reader = reader
        self._release = release
        self._settings = settings
        # Each programme, and the refreshes, have a purse of their own.
        self._budgets = {
            name: Budget(
                redis,
                f"batch:{name}",
                hour_tokens=settings.warming_hour_tokens,
                owner_tokens=24 * settings.warming_hour_tokens,
            )
            for name in (*PROGRAMS, REFRESH)
        }

    async def run(self) -> None:
        """Look for work again and again; runs until cancelled."""
        await refresh_periodically("warming trending answers", self._settings.trending_every_s, self._look_for_work)

    async def _look_for_work(self) -> None:
        if self._release().optimisations.trending_answers and await self._my_turn():
            await self.look()
            await self._take_orders()

    async def look(self) -> int:
        """Order what is trending and not there, and what is about to expire and still wanted; returns how many."""
        settings, now_s = self._settings, time.time()
        wanted = await self._demand.most_wanted(settings.trending_titles)
        due = await self._shared.due(now_s + settings.refresh_ahead_s, settings.trending_titles)
        missing = []
        for key in wanted:
            need = Need.of(key)
            if self.can_be_shared(need) and key not in due and not await self._there(need):
                missing.append(key)
        still_wanted = [
            key for key in due if key in wanted or await self._demand.wanted(key, 5 * settings.trending_titles)
        ]
        for key in set(due) - set(still_wanted):
            await self._shared.no_longer_due(key)
        for key in [*still_wanted, *missing]:
            self._order(Need.of(key), TRENDING_PROGRAM, TRENDING)
        return len(still_wanted) + len(missing)

    async def _take_orders(self) -> None:
        """What a programme has left in Redis to be made."""
        orders = await self._redis.lpop(_WANTED, _ORDERS_AT_ONCE) or []
        by_program: dict[str, list[Need]] = {}
        for order in orders:
            program, _, key = order.decode().partition(" ")
            by_program.setdefault(program, []).append(Need.of(key))
        for program, needs in by_program.items():
            await self.warm(needs, program)

    async def warm(self, needs: Sequence[Need], program: str) -> int:
        """Order the answers of a programme that are not there yet, the first the most valuable; returns how many."""
        missing = [need for need in needs if self.can_be_shared(need) and not await self._there(need)]
        for place, need in enumerate(missing):
            # Nobody orders these a second time, so they wait for as long as an answer would be of use.
            self._order(need, program, SEMANTIC, worth=1.0 / (1 + place), within_s=self._settings.cache_fresh_s)
        return len(missing)

    def refresh(self, need: Need, source: str, program: str) -> None:
        """Make an answer again while the old one may still be served."""
        self._order(need, program, source)

    def running(self, key: str) -> Generation | None:
        """The making of a shared answer that is under way in this process."""
        return self._flights.running(key)

    def start(self, generator: AnswerGenerator, need: Need) -> Generation:
        """Make a shared answer that somebody is waiting for."""
        return self._flights.start(
            self.flight_key(need), lambda write: self.make(generator, need, write, source=SEMANTIC, program="")
        )

    def can_be_shared(self, need: Need) -> bool:
        """Whether an answer to it may be everybody's."""
        topic = self._topics.by_name.get(need.topic)
        return (
            topic is not None
            and makers.can_be_made(topic)
            and topic.about_title == bool(need.title)
            and need.language in _LANGUAGES
            and ROUTES[topic.intent].shareable
        )

    def flight_key(self, need: Need) -> str:
        """Names the making of the shared answer to a need."""
        return f"shared:{need.key}"

    async def make(
        self, generator: AnswerGenerator, need: Need, write: Write, *, source: str, program: str
    ) -> GeneratedAnswer:
        """Make and keep the shared answer to a need."""
        release = self._release()
        spec = makers.shared(need, self._topics.by_name[need.topic], release, self._settings)
        order = await generator.order(spec, release, "", "")
        budget, reservation = self._budgets[program or REFRESH], None
        if generator is self._generator:
            reservation = await budget.reserve("all", order.request)
            if reservation is None:
                raise makers.over_budget(program or REFRESH)
        prepared = await generator.make(order, release, write, source=source, program=program)
        with kept_if_possible():
            if reservation is not None:
                await budget.settle(reservation, prepared.tokens)
            await self.keep(need, prepared)
        return prepared

    async def keep(self, need: Need, prepared: GeneratedAnswer) -> None:
        """Put a shared answer where look-ups find it."""
        title = (await self._facts.titles([need.title])).get(need.title)
        text = makers.question_of(need, title)
        await self._shared.put(prepared.intent, need.topic, self._reader.read(text), text, prepared)

    def _order(
        self, need: Need, program: str, source: str, *, worth: float = 1.0, within_s: float | None = None
    ) -> None:
        async def job() -> None:
            key = self.flight_key(need)
            flight = self._flights.start(
                key, lambda write: self.make(self._generator, need, write, source=source, program=program)
            )
            if flight.task is not None:
                await asyncio.wait([flight.task])

        self._background.offer("batch", worth, job, within_s=within_s or self._settings.trending_every_s)

    async def _there(self, need: Need) -> bool:
        title = (await self._facts.titles([need.title])).get(need.title)
        if title is None:
            return True
        topic = self._topics.by_name[need.topic]
        meaning = self._reader.read(makers.question_of(need, title))
        return bool(await self._redis.exists(answer_key(topic.intent, need.topic, meaning)))

    async def _my_turn(self) -> bool:
        lifetime_ms = int(self._settings.trending_every_s * 900)
        return bool(await self._redis.set(_LOCK, "1", nx=True, px=lifetime_ms))


async def answers_about(redis: Redis, manga_id: str) -> list[str]:
    """Keys of the shared answers that mention a title."""
    client: Any = redis
    return sorted(key.decode() for key in await client.smembers(about_key(manga_id)))


async def order_warming(redis: Redis, needs: Sequence[Need], program: str) -> None:
    """Leave a programme's needs for the orchestrators, which make what is not there yet within the programme's budget."""
    client: Any = redis
    if needs:
        await client.rpush(_WANTED, *(f"{program} {need.key}" for need in needs))


async def catalogue_changed(redis: Redis, titles: list[Manga]) -> list[str]:
    """The catalogue's hook: these titles are now so. What mentioned them ends at once, and is ordered anew; returns its needs."""
    await publish_facts(redis, titles)
    needs: set[str] = set()
    for title in titles:
        needs.update(await drop_about(redis, title.manga_id))
    await order_warming(redis, [Need.of(key) for key in sorted(needs)], "")
    return sorted(needs)
