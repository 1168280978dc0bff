"""Pre-computation as the serving side uses it: looks for an answer that is there, and thinks of what comes next."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Coroutine
from functools import lru_cache
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from redis.exceptions import RedisError

from mangalib.domain import ROUTES, Catalogue, Intent, Manga
from mangalib.errors import MangaError
from mangalib.nlu import Meaning, MeaningReader, Recognised, Topics, exact_key, without_personal_data
from mangalib.precompute.facts import Facts
from mangalib.precompute.follow_ups import FollowUps, follow_up_key
from mangalib.precompute.generated_answer import (
    ORDERS,
    SEMANTIC,
    CachedAnswer,
    GeneratedAnswer,
    Need,
    facts_of,
    fingerprint,
)
from mangalib.precompute.generation import spec as makers
from mangalib.precompute.generation.generator import AnswerGenerator
from mangalib.precompute.generation.single_flight import Generation
from mangalib.precompute.lookup import AnswerLookup, StoredKey, StoredWithFacts
from mangalib.precompute.prediction.candidates import Ongoing
from mangalib.precompute.prediction.transition_model import LiveModel
from mangalib.precompute.shared_answers import SharedAnswers, answer_key, own_label
from mangalib.precompute.warming.batch import Batch
from mangalib.precompute.warming.demand import Demand
from mangalib.precompute.warming.plans import Measured, held_out
from mangalib.serving import CompletedAnswer, CustomerData, PrecomputedAnswer, PromptStore, QueryContext
from mangalib.settings import Settings

log = logging.getLogger(__name__)

_UNRECOGNISED = {
    Intent.RECOMMENDATION: "recommendation",
    Intent.ORDER_STATUS: "order_status",
    Intent.PRODUCT_SEARCH: "product_inquiry",
}
_SMOOTHING = 0.1
_CANONICAL_QUESTIONS_MAX = 10_000


class InFlightAnswer:
    """An answer that is being made, as one of those who wait for it sees it."""

    def __init__(self, flight: Generation, intent: Intent, model_id: str, source: str, *, first: bool) -> None:
        self.source = source
        self.intent = intent
        self.model_id = model_id
        self.titles: dict[str, Manga] = {}
        self._flight = flight
        self._first = first

    async def pieces(self) -> AsyncGenerator[str, None]:
        """The text from its beginning."""
        async for piece in self._flight.pieces():
            yield piece

    def tokens(self) -> tuple[int, int]:
        """What it cost is counted once, for whoever asked first."""
        made = self._flight.result
        return (made.tokens, 0) if made is not None and self._first else (0, 0)


class Precompute:
    """Use as ``async with Precompute(...) as ahead``; leaving stops all of its work."""

    def __init__(
        self,
        *,
        reader: MeaningReader,
        topics: Topics,
        shared: SharedAnswers,
        facts: Facts,
        follow_ups: FollowUps,
        batch: Batch,
        lookup: AnswerLookup,
        customers: CustomerData,
        live_generator: AnswerGenerator,
        catalogue: Catalogue,
        demand: Demand,
        measured: Measured,
        prompts: PromptStore,
        model: LiveModel,
        settings: Settings,
    ) -> None:
        self.batch = batch
        self.follow_ups = follow_ups
        self._reader = reader
        self._topics = topics
        self.shared = shared
        self._facts = facts
        self._lookup = lookup
        self._customers = customers
        self._live_generator = live_generator
        self._catalogue = catalogue
        self._canonical_question = lru_cache(_CANONICAL_QUESTIONS_MAX)(self._read_canonical_question)
        self._demand = demand
        self._measured = measured
        self._prompts = prompts
        self._model = model
        self._settings = settings
        self._live_s = settings.expected_follow_up_saving_ms / 1000
        self._tasks: asyncio.TaskGroup | None = None

    async def __aenter__(self) -> Precompute:
        self._tasks = await asyncio.TaskGroup().__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._tasks is not None
        await self._tasks.__aexit__(None, None, None)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that this object awaits; what goes wrong in it is logged and ends there."""
        assert self._tasks is not None, "enter first"
        return self._tasks.create_task(_contained(coroutine))

    # Before an answer

    async def find(self, context: QueryContext) -> PrecomputedAnswer | None:
        """The answer to a question, if one is stored and still right, or is being generated."""
        try:
            return await self._find(context)
        except (RedisError, OSError, ClientError, BotoCoreError) as error:
            log.warning("precomputed answers: not looked up: %s", type(error).__name__)
            return None

    async def _find(self, context: QueryContext) -> PrecomputedAnswer | None:
        session = self.follow_ups.session(context)
        session.program = ""
        need = self._need(context)
        follow_up = need if context.release.optimisations.follow_up_prediction else None
        if follow_up is not None and (generation := self.follow_ups.running(context, follow_up)) is not None:
            return self._follow_up_in_flight(follow_up, generation)
        own_key = follow_up_key(context.customer, context.session_id, follow_up) if follow_up is not None else ""
        shareable = need is not None and self.batch.can_be_shared(need)
        known = None if shareable else self._recognised(context, session)
        shared_key = self._shared_key(context, need) if need is not None and shareable else _key_of(context, known)
        if not own_key and shared_key is None:
            return None
        (own, shared), in_progress = await self._lookup.fetch(
            [StoredKey(own_key) if own_key else None, shared_key], lock=f"lock:{own_key}" if own_key else ""
        )
        if own is not None and await self._still_holds(own, context.customer):
            return CachedAnswer(*own)
        if own is None and follow_up is not None and in_progress:
            return self._follow_up_in_flight(follow_up, self.follow_ups.subscribe(context, follow_up))
        if need is not None and shareable:
            return await self._for_everybody(context, need, shared) if shared_key is not None else None
        return await self._by_recognition(context, session, known, shared)

    def _shared_key(self, context: QueryContext, need: Need) -> StoredKey | None:
        """Where the shared answer to a need is stored; ``None`` when it may not be served, or its title is not known."""
        if not context.release.optimisations.trending_answers:
            return None
        if need.title and need.title not in self._catalogue.by_id:
            return None
        text, meaning = self._canonical_question(need)
        topic = self._topics.by_name[need.topic]
        return StoredKey(answer_key(topic.intent, need.topic, meaning), exact_key(text, meaning))

    def _read_canonical_question(self, need: Need) -> tuple[str, Meaning]:
        text = makers.question_of(need, self._catalogue.by_id.get(need.title))
        return text, self._reader.read(text)

    def _recognised(self, context: QueryContext, session: Ongoing) -> Recognised | None:
        """The stored question whose answer this one may be given."""
        question = context.question
        if not context.release.optimisations.semantic_cache or question.meaning.pointing:
            return None
        if not ROUTES[question.intent].shareable:
            return None
        known = self.shared.recognise(question)
        if session.by_similarity is not None:
            # Asked again in other words: the answer was not the one that was wanted (Hassan et al. 2013).
            language, label, probability = session.by_similarity
            session.by_similarity = None
            again = known is not None and known.label == label
            self.spawn(self.shared.record_feedback(language, label, probability, right=not again))
        return known if known is not None and known.accepted else None

    async def _by_recognition(
        self, context: QueryContext, session: Ongoing, known: Recognised | None, stored: StoredWithFacts | None
    ) -> PrecomputedAnswer | None:
        if known is None or stored is None or not await self._still_right(context, stored):
            return None
        if not known.exact:
            session.by_similarity = (context.question.meaning.language, known.label, known.probability)
        return CachedAnswer(*stored)

    async def _for_everybody(
        self, context: QueryContext, need: Need, stored: StoredWithFacts | None
    ) -> PrecomputedAnswer | None:
        """The shared answer to a need; where there is none, one generation makes it for all who ask."""
        key = self.batch.flight_key(need)
        if self.batch.running(key) is None:
            if stored is not None:
                if stored.answer.program and held_out(context.session_id, self._settings.held_out_share):
                    return None
                if await self._still_right(context, stored):
                    self.follow_ups.session(context).program = stored.answer.program
                    return CachedAnswer(*stored)
            if need.title and not await self._facts.titles([need.title]):
                return None
        # Nothing is awaited from here on: of all who ask, one is the first.
        first = self.batch.running(key) is None
        generation = self.batch.start(self._live_generator, need)
        topic = self._topics.by_name[need.topic]
        model_id = makers.shared(need, topic, context.release, self._settings).model_id
        return InFlightAnswer(generation, topic.intent, model_id, "model" if first else SEMANTIC, first=first)

    def _follow_up_in_flight(self, need: Need, generation: Generation) -> InFlightAnswer:
        intent = self._topics.by_name[need.topic].intent
        return InFlightAnswer(generation, intent, self._settings.haiku_model_id, "precomputed", first=False)

    async def _still_right(self, context: QueryContext, stored: StoredWithFacts) -> bool:
        """Whether a shared answer is still built on what is so now. One past its freshness is served, and refreshed once."""
        answer = stored.answer
        if answer.built_on and answer.built_on != self._built_on(context, answer.intent):
            return False
        if not await self._still_holds(stored, context.customer):
            return False
        if answer.fresh_until_s and answer.fresh_until_s < time.time() and answer.need:
            self.batch.refresh(Need.of(answer.need), answer.source, answer.program)
        return True

    async def _still_holds(self, stored: StoredWithFacts, customer: str) -> bool:
        """Whether everything that the answer depends on is as it was when it was generated."""
        now = {manga_id: facts_of(title) for manga_id, title in stored.titles.items()}
        if ORDERS in stored.answer.depends:
            now[ORDERS] = fingerprint(await self._customers.orders(customer))
        return now == stored.answer.depends

    def _built_on(self, context: QueryContext, intent: Intent) -> str:
        prompt = self._prompts.lookup(intent, context.release.prompt_versions.get(intent))
        return fingerprint(prompt, context.release.model_id(intent, ROUTES[intent], self._settings))

    def _need(self, context: QueryContext) -> Need | None:
        """What is asked for, when that is all that is asked: nothing about numbers, other names, or what is not."""
        meaning, topic = context.question.meaning, context.question.topic
        if topic is None or not self._settings.answers_ahead:
            return None
        more = meaning.numbers and topic.name != "release"
        if more or meaning.names or meaning.orders or meaning.negations or len(meaning.titles) > 1:
            return None
        if not topic.about_title:
            return None if meaning.titles else Need(topic.name, "", meaning.language)
        title = (
            meaning.titles[0]
            if meaning.titles
            else self.follow_ups.session(context).subject
            if meaning.pointing
            else ""
        )
        return Need(topic.name, title, meaning.language) if title else None

    # While and after it

    async def titles(self, manga_ids: list[str]) -> dict[str, Manga]:
        """The facts as whatever changes the catalogue has last said them."""
        try:
            return await self._facts.titles(manga_ids)
        except (RedisError, OSError) as error:
            log.warning("no facts about titles: %s", error)
            return {}

    def on_first_token(self, context: QueryContext, titles: list[str]) -> None:
        """Note what is asked, and have the most likely follow-ups generated."""
        if not self._settings.answers_ahead:
            return
        meaning, topic, intent = context.question.meaning, context.question.topic, context.question.intent
        need = self._need(context)
        name = topic.name if topic else _UNRECOGNISED.get(intent, intent.value)
        session = self.follow_ups.session(context)
        about = [need.title] if need and need.title else list(meaning.titles)
        self._learn(session, name, about)
        if context.release.optimisations.follow_up_prediction:
            shown = about if len(about) == 1 else titles
            self.follow_ups.think_ahead(context, name, shown, meaning.language, saved_s=self._live_s)
            if len(about) == 1 and len(titles) > 1:
                session.listed = [title for title in titles if title not in about]
        if need is not None and self.batch.can_be_shared(need):
            self.spawn(self._demand.asked(need.key))

    def on_completed(self, context: QueryContext, completed: CompletedAnswer) -> None:
        """Keep what every customer may be given, and count what warming brought."""
        if not self._settings.answers_ahead:
            return
        if completed.source == "model":
            self._live_s += _SMOOTHING * (completed.total_ms / 1000 - self._live_s)
            self.spawn(self._keep(context, completed))
        self.spawn(self._count(context, completed))

    def on_session_closed(self, customer: str, session_id: str) -> None:
        """The session is over."""
        self.follow_ups.on_session_closed(customer, session_id)

    def _learn(self, session: Ongoing, name: str, about: list[str]) -> None:
        if session.history and session.history[-1] != name:
            title = about[0] if about else ""
            self._model.observe(session.history, name, session.relation_of(title), at_us=int(time.time() * 1e6))

    async def _keep(self, context: QueryContext, completed: CompletedAnswer) -> None:
        """A live answer is shared when nothing of a customer or a conversation can be in it."""
        question = context.question
        text, meaning, intent = question.text, question.meaning, question.intent
        if not context.release.optimisations.semantic_cache or completed.had_history or not ROUTES[intent].shareable:
            return
        need = self._need(context)
        if need is not None and self.batch.can_be_shared(need):
            return  # its generation has kept it
        if meaning.pointing or meaning.orders or without_personal_data(text) != text:
            return
        now_s = time.time()
        mentioned = self._reader.read(f"{text}\n{completed.text}").titles
        answer = GeneratedAnswer(
            text=completed.text,
            intent=intent,
            source=SEMANTIC,
            model_id=completed.model_id,
            tokens=completed.tokens,
            depends=await self._facts.fingerprints(list(dict.fromkeys(mentioned))),
            built_on=self._built_on(context, intent),
            made_at_s=now_s,
            fresh_until_s=now_s + self._settings.cache_fresh_s,
        )
        known = self.shared.recognise(question)
        label = known.label if known is not None and known.accepted else own_label(text, meaning)
        await self.shared.put(intent, label, meaning, text, answer)

    async def _count(self, context: QueryContext, completed: CompletedAnswer) -> None:
        """For questions that warming can meet: which program met it, if one did, and how long it took."""
        need = self._need(context)
        if need is None or not self.batch.can_be_shared(need):
            return
        warmed = not held_out(context.session_id, self._settings.held_out_share)
        program = self.follow_ups.session(context).program
        await self._measured.count(warmed=warmed, program=program, total_ms=completed.total_ms, tokens=completed.tokens)


def _key_of(context: QueryContext, known: Recognised | None) -> StoredKey | None:
    """Where the answer to a recognised question is stored."""
    if known is None:
        return None
    question = context.question
    key = answer_key(question.intent, known.label, question.meaning)
    return StoredKey(key, exact_key(question.text, question.meaning))


async def _contained(coroutine: Coroutine[Any, Any, None]) -> None:
    try:
        await coroutine
    except (RedisError, OSError, TimeoutError, MangaError) as error:
        log.warning("pre-computation: %s: %s", type(error).__name__, error)
    except Exception:
        log.exception("pre-computation failed")
