"""Follow-ups: while an answer streams, what is likely to be asked next is made, for this session of this customer alone."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import msgspec
from redis.asyncio import Redis

from mangalib.nlu import Topics
from mangalib.precompute.background import Background
from mangalib.precompute.generated_answer import PRECOMPUTED, GeneratedAnswer, Need, kept_if_possible, scoped
from mangalib.precompute.generation import spec as makers
from mangalib.precompute.generation.generator import AnswerGenerator
from mangalib.precompute.generation.single_flight import Generation, SingleFlight, Write
from mangalib.precompute.generation.spec import Kind
from mangalib.precompute.prediction.candidates import Candidate, Ongoing, candidates
from mangalib.precompute.prediction.transition_model import NextIntent
from mangalib.precompute.token_budget import Budget
from mangalib.serving import QueryContext
from mangalib.settings import Settings

log = logging.getLogger(__name__)

_SESSIONS_MAX = 20_000
_HISTORY_MAX = 20


class FollowUps:
    """Of one orchestrator. Sessions that have been quiet longest are forgotten when there are too many."""

    def __init__(
        self,
        redis: Redis,
        generator: AnswerGenerator,
        flights: SingleFlight,
        background: Background,
        topics: Topics,
        predict: Callable[[list[str]], dict[NextIntent, float]],
        settings: Settings,
    ) -> None:
        self._redis: Any = redis  # its types do not know that answers are bytes here
        self._generator = generator
        self._flights = flights
        self._background = background
        self._topics = topics
        self._predict = predict
        self._settings = settings
        self._sessions: OrderedDict[tuple[str, str], Ongoing] = OrderedDict()
        self._ordered: dict[str, set[str]] = {}
        self._budget = Budget(
            redis,
            "follow-ups",
            hour_tokens=settings.precompute_hour_tokens,
            owner_tokens=settings.follow_up_session_tokens,
        )

    def session(self, asked: QueryContext) -> Ongoing:
        """What is known of a session."""
        key = (asked.customer, asked.session_id)
        session = self._sessions.setdefault(key, Ongoing())
        self._sessions.move_to_end(key)
        if len(self._sessions) > _SESSIONS_MAX:
            self._sessions.popitem(last=False)
        return session

    def running(self, context: QueryContext, need: Need) -> Generation | None:
        """The generation of that follow-up for this very session, if it is under way in this process."""
        return self._flights.running(follow_up_key(context.customer, context.session_id, need))

    def subscribe(self, context: QueryContext, need: Need) -> Generation:
        """The generation of that follow-up, which is under way in another process."""
        return self._flights.start(follow_up_key(context.customer, context.session_id, need), _not_ours)

    def think_ahead(
        self, asked: QueryContext, topic: str, titles: list[str], language: str, *, saved_s: float
    ) -> list[Candidate]:
        """Note what was asked, and order what is worth making; returns that."""
        session = self.session(asked)
        session.history = [*session.history, topic][-_HISTORY_MAX:]
        session.language = language
        if len(titles) == 1 and titles[0] != session.subject:
            session.earlier = [*session.earlier, session.subject][-_HISTORY_MAX:] if session.subject else []
            session.subject = titles[0]
        elif len(titles) > 1:
            session.listed = titles
        chosen = candidates(self._predict(session.history), session, self._topics, self._settings, saved_s=saved_s)
        owner = scoped(asked.customer, asked.session_id)
        # What was thought of before this question and has not begun is out of date.
        self._background.forget(owner)
        for candidate in chosen:
            self._order(asked, owner, candidate, topic)
        return chosen

    def on_session_closed(self, customer: str, session_id: str) -> None:
        """The session is over: nothing more is made for it."""
        self._sessions.pop((customer, session_id), None)
        owner = scoped(customer, session_id)
        self._background.forget(owner)
        for key in self._ordered.pop(owner, set()):
            self._flights.cancel(key)

    def _order(self, asked: QueryContext, owner: str, candidate: Candidate, trigger: str) -> None:
        key = follow_up_key(asked.customer, asked.session_id, candidate.need)
        self._ordered.setdefault(owner, set()).add(key)

        async def job() -> None:
            if await self._redis.exists(key):
                return
            flight = self._flights.start(key, lambda write: self._make(asked, owner, candidate.need, trigger, write))
            if flight.task is not None:
                await asyncio.wait([flight.task])

        self._background.offer(owner, candidate.worth_usd, job, within_s=self._settings.follow_up_ttl_s)

    async def _make(self, asked: QueryContext, owner: str, need: Need, trigger: str, write: Write) -> GeneratedAnswer:
        spec = makers.follow_up(need, self._topics.by_name[need.topic], trigger, self._settings)
        order = await self._generator.order(spec, asked.release, asked.customer, asked.session_id)
        reservation = None
        if spec.kind is not Kind.PREFETCH:
            reservation = await self._budget.reserve(owner, order.request)
            if reservation is None:
                raise makers.over_budget("follow-ups")
        # What is cut off half-way stays charged in full: what the model has written until then is not known.
        prepared = await self._generator.make(order, asked.release, write, source=PRECOMPUTED)
        with kept_if_possible():
            if reservation is not None:
                await self._budget.settle(reservation, prepared.tokens)
            key = follow_up_key(asked.customer, asked.session_id, need)
            await self._redis.set(key, msgspec.json.encode(prepared), ex=self._settings.follow_up_ttl_s)
        return prepared


def follow_up_key(customer: str, session_id: str, need: Need) -> str:
    """Where a follow-up lies: no other customer's and no other session's question can lead there."""
    return "follow-up:" + scoped(customer, session_id, need.topic, need.title, need.language)


async def _not_ours(write: Write) -> GeneratedAnswer:
    raise makers.over_budget("a follow-up that another orchestrator had begun")
