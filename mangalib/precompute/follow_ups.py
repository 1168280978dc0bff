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
from mangalib.precompute.background import BackgroundQueue
from mangalib.precompute.generated_answer import (
    PRECOMPUTED,
    CanonicalQuestion,
    GeneratedAnswer,
    scope_key,
    storing_may_fail,
)
from mangalib.precompute.generation.generator import AnswerGenerator
from mangalib.precompute.generation.single_flight import Generation, SingleFlight, WriteText
from mangalib.precompute.generation.spec import GenerationMethod, follow_up_spec, over_budget
from mangalib.precompute.prediction.candidates import Candidate, ConversationState, follow_up_candidates
from mangalib.precompute.prediction.transition_model import NextIntent
from mangalib.precompute.token_budget import TokenBudget
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
        background: BackgroundQueue,
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
        self._sessions: OrderedDict[tuple[str, str], ConversationState] = OrderedDict()
        self._ordered: dict[str, set[str]] = {}
        self._budget = TokenBudget(
            redis,
            "follow-ups",
            hour_tokens=settings.precompute_hour_tokens,
            owner_tokens=settings.follow_up_session_tokens,
        )

    def session(self, asked: QueryContext) -> ConversationState:
        """What is known of a session."""
        key = (asked.customer, asked.session_id)
        session = self._sessions.setdefault(key, ConversationState())
        self._sessions.move_to_end(key)
        if len(self._sessions) > _SESSIONS_MAX:
            self._sessions.popitem(last=False)
        return session

    async def find(
        self, asked: QueryContext, need: CanonicalQuestion
    ) -> tuple[GeneratedAnswer | None, Generation | None]:
        """The follow-up that was made for this very session of this customer, or the flight that is making it."""
        key = follow_up_key(asked.customer, asked.session_id, need)
        flight = self._flights.running(key)
        if flight is not None:
            return None, flight
        found = await self._redis.get(key)
        if found is not None:
            return msgspec.json.decode(found, type=GeneratedAnswer), None
        if await self._redis.exists(f"lock:{key}"):
            return None, self._flights.start(key, _not_ours)
        return None, None

    def predict_follow_ups(
        self, asked: QueryContext, topic: str, titles: list[str], language: str, *, saved_s: float
    ) -> list[Candidate]:
        """Note what was asked, and order what is worth making; returns that."""
        session = self.session(asked)
        session.history = [*session.history, topic][-_HISTORY_MAX:]
        session.language = language
        if len(titles) == 1 and titles[0] != session.current_title:
            session.earlier_titles = (
                [*session.earlier_titles, session.current_title][-_HISTORY_MAX:] if session.current_title else []
            )
            session.current_title = titles[0]
        elif len(titles) > 1:
            session.listed_titles = titles
        chosen = follow_up_candidates(
            self._predict(session.history), session, self._topics, self._settings, saved_s=saved_s
        )
        owner = scope_key(asked.customer, asked.session_id)
        # What was thought of before this question and has not begun is out of date.
        self._background.discard(owner)
        for candidate in chosen:
            self._order(asked, owner, candidate, topic)
        return chosen

    def on_session_closed(self, customer: str, session_id: str) -> None:
        """The session is over: nothing more is made for it."""
        self._sessions.pop((customer, session_id), None)
        owner = scope_key(customer, session_id)
        self._background.discard(owner)
        for key in self._ordered.pop(owner, set()):
            self._flights.cancel(key)

    def _order(self, asked: QueryContext, owner: str, candidate: Candidate, trigger: str) -> None:
        key = follow_up_key(asked.customer, asked.session_id, candidate.question)
        self._ordered.setdefault(owner, set()).add(key)

        async def job() -> None:
            if await self._redis.exists(key):
                return
            flight = self._flights.start(
                key, lambda write: self._make(asked, owner, candidate.question, trigger, write)
            )
            if flight.task is not None:
                await asyncio.wait([flight.task])

        self._background.submit(owner, candidate.value_usd, job, within_s=self._settings.follow_up_ttl_s)

    async def _make(
        self, asked: QueryContext, owner: str, need: CanonicalQuestion, trigger: str, write: WriteText
    ) -> GeneratedAnswer:
        spec = follow_up_spec(need, self._topics.by_name[need.topic], trigger, self._settings)
        request = await self._generator.prepare(spec, asked.release, asked.customer, asked.session_id)
        reservation = None
        if spec.method is not GenerationMethod.PREFETCH:
            reservation = await self._budget.reserve(owner, request.model_request)
            if reservation is None:
                raise over_budget("follow-ups")
        # What is cut off half-way stays charged in full: what the model has written until then is not known.
        prepared = await self._generator.generate(request, asked.release, write, source=PRECOMPUTED)
        with storing_may_fail():
            if reservation is not None:
                await self._budget.settle(reservation, prepared.tokens)
            key = follow_up_key(asked.customer, asked.session_id, need)
            await self._redis.set(key, msgspec.json.encode(prepared), ex=self._settings.follow_up_ttl_s)
        return prepared


def follow_up_key(customer: str, session_id: str, need: CanonicalQuestion) -> str:
    """Where a follow-up lies: no other customer's and no other session's question can lead there."""
    return "follow-up:" + scope_key(customer, session_id, need.topic, need.title, need.language)


async def _not_ours(write: WriteText) -> GeneratedAnswer:
    raise over_budget("a follow-up that another orchestrator had begun")
