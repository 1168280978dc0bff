"""Finds the precomputed answer to a question, if one is stored and still right, or is being generated."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from functools import lru_cache
from typing import Any

from mangalib.domain import ROUTES, Catalogue, Intent, Manga
from mangalib.nlu import Meaning, MeaningReader, Recognised, Topics, exact_key
from mangalib.precompute.conversation import ConversationState, SimilarityHit
from mangalib.precompute.facts import Facts
from mangalib.precompute.follow_ups import FollowUps, follow_up_key
from mangalib.precompute.generated_answer import (
    ORDERS,
    PRECOMPUTED,
    SEMANTIC,
    CachedAnswer,
    CanonicalQuestion,
    fingerprint,
    title_fingerprint,
)
from mangalib.precompute.generation.generator import AnswerGenerator
from mangalib.precompute.generation.single_flight import Generation
from mangalib.precompute.generation.spec import prompt_fingerprint, shared_answer_spec, standard_wording
from mangalib.precompute.lookup import AnswerLookup, StoredKey, StoredWithFacts
from mangalib.precompute.shared_answers import SharedAnswers, answer_key
from mangalib.precompute.warming.batch import WarmingBatch
from mangalib.precompute.warming.measurement import held_out
from mangalib.serving import CustomerData, PrecomputedAnswer, PromptStore, QueryContext
from mangalib.settings import PrecomputeSettings

_CANONICAL_QUESTIONS_MAX = 10_000


class InFlightAnswer:
    """An answer that is being generated, as one subscriber sees it; only the ``first`` one is charged for its tokens."""

    def __init__(self, generation: Generation, intent: Intent, model_id: str, source: str, *, first: bool) -> None:
        self.source = source
        self.intent = intent
        self.model_id = model_id
        self.titles: dict[str, Manga] = {}
        self._generation = generation
        self._first = first

    async def pieces(self) -> AsyncGenerator[str, None]:
        """The text from its beginning, as it comes."""
        async for piece in self._generation.pieces():
            yield piece

    def tokens(self) -> tuple[int, int]:
        """The tokens of the generation for the first subscriber, none for the others."""
        result = self._generation.result
        return (result.tokens, 0) if result is not None and self._first else (0, 0)


class AnswerFinder:
    """Looks for follow-ups first, then for shared answers about titles, then in the semantic cache."""

    def __init__(
        self,
        *,
        reader: MeaningReader,
        topics: Topics,
        catalogue: Catalogue,
        lookup: AnswerLookup,
        shared: SharedAnswers,
        facts: Facts,
        customers: CustomerData,
        prompts: PromptStore,
        follow_ups: FollowUps,
        batch: WarmingBatch,
        live_generator: AnswerGenerator,
        settings: PrecomputeSettings,
    ) -> None:
        self._reader = reader
        self._topics = topics
        self._catalogue = catalogue
        self._lookup = lookup
        self._shared = shared
        self._facts = facts
        self._customers = customers
        self._prompts = prompts
        self._follow_ups = follow_ups
        self._batch = batch
        self._live_generator = live_generator
        self._settings = settings
        self._standard_question = lru_cache(_CANONICAL_QUESTIONS_MAX)(self._read_standard_question)

    async def find(
        self, context: QueryContext, spawn: Callable[[Coroutine[Any, Any, None]], object]
    ) -> PrecomputedAnswer | None:
        """The answer to a question, or ``None``; feedback that the question implies is recorded in a task of ``spawn``."""
        session = self._follow_ups.session(context)
        session.program = ""
        canonical = session.canonical_question(context.question) if self._settings.answers_ahead else None
        follow_up = canonical if context.release.optimisations.follow_up_prediction else None
        if follow_up is not None and (generation := self._follow_ups.running(context, follow_up)) is not None:
            return self._follow_up_in_flight(follow_up, generation)
        own_key = follow_up_key(context.customer, context.session_id, follow_up) if follow_up is not None else ""
        shareable = canonical if canonical is not None and self._batch.is_shareable(canonical) else None
        recognised = None if shareable is not None else self._recognised(context, session, spawn)
        shared_key = (
            self._title_answer_key(context, shareable) if shareable is not None else _cache_key(context, recognised)
        )
        if not own_key and shared_key is None:
            return None
        (own, shared), in_progress = await self._lookup.fetch(
            [StoredKey(own_key) if own_key else None, shared_key], lock=f"lock:{own_key}" if own_key else ""
        )
        if own is not None and await self._is_unchanged(own, context.customer):
            return CachedAnswer(*own)
        if own is None and follow_up is not None and in_progress:
            return self._follow_up_in_flight(follow_up, self._follow_ups.subscribe(context, follow_up))
        if shareable is not None:
            return await self._title_answer(context, shareable, shared) if shared_key is not None else None
        return await self._cache_answer(context, session, recognised, shared)

    # Follow-ups

    def _follow_up_in_flight(self, question: CanonicalQuestion, generation: Generation) -> InFlightAnswer:
        intent = self._topics.by_name[question.topic].intent
        return InFlightAnswer(generation, intent, self._settings.haiku_model_id, PRECOMPUTED, first=False)

    # Shared answers about titles

    def _title_answer_key(self, context: QueryContext, question: CanonicalQuestion) -> StoredKey | None:
        """Where the shared answer is stored; ``None`` when it may not be served or its title is unknown."""
        if not context.release.optimisations.trending_answers:
            return None
        if question.title and question.title not in self._catalogue.by_id:
            return None
        text, meaning = self._standard_question(question)
        topic = self._topics.by_name[question.topic]
        return StoredKey(answer_key(topic.intent, question.topic, meaning), exact_key(text, meaning))

    def _read_standard_question(self, question: CanonicalQuestion) -> tuple[str, Meaning]:
        text = standard_wording(question, self._catalogue.by_id.get(question.title))
        return text, self._reader.read(text)

    async def _title_answer(
        self, context: QueryContext, question: CanonicalQuestion, stored: StoredWithFacts | None
    ) -> PrecomputedAnswer | None:
        """The stored answer, or else the one generation of it that all who ask share."""
        key = self._batch.generation_key(question)
        if self._batch.running(key) is None:
            if stored is not None:
                if stored.answer.program and held_out(context.session_id, self._settings.held_out_share):
                    return None
                if await self._is_current(context, stored):
                    self._follow_ups.session(context).program = stored.answer.program
                    return CachedAnswer(*stored)
            if question.title and not await self._facts.titles([question.title]):
                return None
        # No await from here to the start of the generation, so that exactly one of concurrent questions is the first.
        first = self._batch.running(key) is None
        generation = self._batch.start(self._live_generator, question)
        spec = shared_answer_spec(question, self._topics.by_name[question.topic], context.release, self._settings)
        source = "model" if first else SEMANTIC
        return InFlightAnswer(generation, spec.topic.intent, spec.model_id, source, first=first)

    # The semantic cache

    def _recognised(
        self,
        context: QueryContext,
        session: ConversationState,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> Recognised | None:
        """The stored question whose answer this one may be given."""
        question = context.question
        if not context.release.optimisations.semantic_cache or question.meaning.refers_back:
            return None
        if not ROUTES[question.intent].shareable:
            return None
        recognised = self._shared.recognise(question)
        if (hit := session.similarity_hit) is not None:
            # A question asked again in other words: the answer was wrong (Hassan et al. 2013).
            session.similarity_hit = None
            repeated = recognised is not None and recognised.label == hit.label
            spawn(self._shared.record_feedback(hit.language, hit.label, hit.probability, right=not repeated))
        return recognised if recognised is not None and recognised.accepted else None

    async def _cache_answer(
        self,
        context: QueryContext,
        session: ConversationState,
        recognised: Recognised | None,
        stored: StoredWithFacts | None,
    ) -> PrecomputedAnswer | None:
        if recognised is None or stored is None or not await self._is_current(context, stored):
            return None
        if not recognised.exact:
            language = context.question.meaning.language
            session.similarity_hit = SimilarityHit(language, recognised.label, recognised.probability)
        return CachedAnswer(*stored)

    # Whether a stored answer is still right

    async def _is_current(self, context: QueryContext, stored: StoredWithFacts) -> bool:
        """Whether prompt, model and facts are unchanged; an answer that is no longer fresh is refreshed in the background."""
        answer, release = stored.answer, context.release
        if answer.built_on:
            model_id = release.model_id(answer.intent, ROUTES[answer.intent], self._settings)
            if answer.built_on != prompt_fingerprint(self._prompts, release, answer.intent, model_id):
                return False
        if not await self._is_unchanged(stored, context.customer):
            return False
        if answer.fresh_until_s and answer.fresh_until_s < time.time() and answer.need:
            self._batch.refresh(CanonicalQuestion.from_key(answer.need), answer.source, answer.program)
        return True

    async def _is_unchanged(self, stored: StoredWithFacts, customer: str) -> bool:
        """Whether all facts that the answer depends on are as they were when it was generated."""
        current = {manga_id: title_fingerprint(title) for manga_id, title in stored.titles.items()}
        if ORDERS in stored.answer.depends:
            current[ORDERS] = fingerprint(await self._customers.orders(customer))
        return current == stored.answer.depends


def _cache_key(context: QueryContext, recognised: Recognised | None) -> StoredKey | None:
    """Where the answer to a recognised question is stored."""
    if recognised is None:
        return None
    question = context.question
    key = answer_key(question.intent, recognised.label, question.meaning)
    return StoredKey(key, exact_key(question.text, question.meaning))
