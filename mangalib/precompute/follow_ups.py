"""Follow-ups: while an answer streams, the answers to the most probable next questions are generated for this session alone."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import msgspec
from redis.asyncio import Redis

from mangalib.errors import TransportError
from mangalib.nlu import Topics
from mangalib.precompute.background import BackgroundQueue
from mangalib.precompute.conversation import ConversationState
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
from mangalib.precompute.prediction.candidates import Candidate, follow_up_candidates
from mangalib.precompute.prediction.transition_model import NextIntent
from mangalib.precompute.token_budget import TokenBudget
from mangalib.serving import QueryContext
from mangalib.settings import PrecomputeSettings

_SESSIONS_MAX = 20_000


class FollowUps:
    """The sessions of one orchestrator and their follow-ups; beyond a maximum, the least recently used sessions are dropped."""

    def __init__(
        self,
        redis: Redis,
        generator: AnswerGenerator,
        single_flight: SingleFlight,
        background: BackgroundQueue,
        topics: Topics,
        predict: Callable[[list[str]], dict[NextIntent, float]],
        settings: PrecomputeSettings,
    ) -> None:
        self._redis: Any = redis  # redis-py's types do not know that answers are bytes here
        self._generator = generator
        self._single_flight = single_flight
        self._background = background
        self._topics = topics
        self._predict = predict
        self._settings = settings
        self._sessions: OrderedDict[tuple[str, str], ConversationState] = OrderedDict()
        self._submitted: dict[str, set[str]] = {}
        self._budget = TokenBudget(
            redis,
            "follow-ups",
            hour_tokens=settings.precompute_hour_tokens,
            owner_tokens=settings.follow_up_session_tokens,
        )

    def session(self, context: QueryContext) -> ConversationState:
        """The conversation of the query's session."""
        key = (context.customer, context.session_id)
        session = self._sessions.setdefault(key, ConversationState())
        self._sessions.move_to_end(key)
        if len(self._sessions) > _SESSIONS_MAX:
            self._sessions.popitem(last=False)
        return session

    def running(self, context: QueryContext, question: CanonicalQuestion) -> Generation | None:
        """The generation of that follow-up for this very session that runs in this process."""
        return self._single_flight.running(follow_up_key(context.customer, context.session_id, question))

    def subscribe(self, context: QueryContext, question: CanonicalQuestion) -> Generation:
        """The generation of that follow-up that runs in another process."""
        return self._single_flight.start(follow_up_key(context.customer, context.session_id, question), _refuse)

    def predict_and_submit(self, context: QueryContext, *, saved_s: float) -> None:
        """Predict the session's follow-ups and submit those worth generating; ``saved_s`` is the time of a live answer."""
        session = self.session(context)
        predicted = self._predict(session.history)
        candidates = follow_up_candidates(predicted, session, self._topics, self._settings, saved_s=saved_s)
        owner = scope_key(context.customer, context.session_id)
        # Candidates of the previous question that have not started are outdated.
        self._background.discard(owner)
        for candidate in candidates:
            self._submit(context, owner, candidate, session.history[-1])

    def on_session_closed(self, customer: str, session_id: str) -> None:
        """Drop a closed session and cancel its follow-ups."""
        self._sessions.pop((customer, session_id), None)
        owner = scope_key(customer, session_id)
        self._background.discard(owner)
        for key in self._submitted.pop(owner, set()):
            self._single_flight.cancel(key)

    def _submit(self, context: QueryContext, owner: str, candidate: Candidate, trigger: str) -> None:
        key = follow_up_key(context.customer, context.session_id, candidate.question)
        self._submitted.setdefault(owner, set()).add(key)

        async def work() -> None:
            if await self._redis.exists(key):
                return
            generation = self._single_flight.start(
                key, lambda write: self._generate(context, owner, candidate.question, trigger, write)
            )
            if generation.task is not None:
                await asyncio.wait([generation.task])

        self._background.submit(owner, candidate.value_usd, work, within_s=self._settings.follow_up_ttl_s)

    async def _generate(
        self, context: QueryContext, owner: str, question: CanonicalQuestion, trigger: str, write: WriteText
    ) -> GeneratedAnswer:
        spec = follow_up_spec(question, self._topics.by_name[question.topic], trigger, self._settings)
        request = await self._generator.prepare(spec, context.release, context.customer, context.session_id)
        reservation = None
        if spec.method is not GenerationMethod.PREFETCH:
            reservation = await self._budget.reserve(owner, request.model_request)
            if reservation is None:
                raise over_budget("follow-ups")
        # A cancelled generation stays charged in full: how many tokens the model has written is unknown.
        answer = await self._generator.generate(request, context.release, write, source=PRECOMPUTED)
        with storing_may_fail():
            if reservation is not None:
                await self._budget.settle(reservation, answer.tokens)
            key = follow_up_key(context.customer, context.session_id, question)
            await self._redis.set(key, msgspec.json.encode(answer), ex=self._settings.follow_up_ttl_s)
        return answer


def follow_up_key(customer: str, session_id: str, question: CanonicalQuestion) -> str:
    """The Redis key of a follow-up, which no question of another customer or session can have."""
    return "follow-up:" + scope_key(customer, session_id, question.topic, question.title, question.language)


async def _refuse(write: WriteText) -> GeneratedAnswer:
    """Used where the lock is held elsewhere: if it is free by now, the other process has given up."""
    raise TransportError("generation: the leading process has given up")
