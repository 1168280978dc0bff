"""Pre-computation as the serving side uses it: looks for an answer that is there, and thinks of what comes next."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from redis.exceptions import RedisError

from mangalib.aws import ClaudeRequest
from mangalib.domain import ROUTES, Intent, Manga
from mangalib.errors import MangaError
from mangalib.nlu import Meaning, MeaningReader, Topic, Topics, without_personal_data
from mangalib.precompute.facts import Facts
from mangalib.precompute.follow_ups import FollowUps
from mangalib.precompute.generated_answer import SEMANTIC, CachedAnswer, CanonicalQuestion, GeneratedAnswer, fingerprint
from mangalib.precompute.generation.generator import AnswerGenerator
from mangalib.precompute.generation.single_flight import Generation
from mangalib.precompute.generation.spec import shared_answer_spec, standard_wording
from mangalib.precompute.prediction.candidates import ConversationState
from mangalib.precompute.prediction.transition_model import LiveModel
from mangalib.precompute.shared_answers import SharedAnswers, own_label
from mangalib.precompute.warming.batch import WarmingBatch
from mangalib.precompute.warming.demand import Demand
from mangalib.precompute.warming.measurement import WarmingMeasurement, held_out
from mangalib.serving import CompletedAnswer, PrecomputedAnswer, PromptStore, QueryContext
from mangalib.settings import Settings

log = logging.getLogger(__name__)

_UNRECOGNISED = {
    Intent.RECOMMENDATION: "recommendation",
    Intent.ORDER_STATUS: "order_status",
    Intent.PRODUCT_SEARCH: "product_inquiry",
}
_SMOOTHING = 0.1


class InFlightAnswer:
    """An answer that is being made, as one of those who wait for it sees it."""

    def __init__(self, flight: Generation, intent: Intent, model_id: str, source: str, *, first: bool) -> None:
        self.source = source
        self.intent = intent
        self.model_id = model_id
        self.request = ClaudeRequest(0, [])
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
        batch: WarmingBatch,
        live_kitchen: AnswerGenerator,
        demand: Demand,
        measurement: WarmingMeasurement,
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
        self._live_kitchen = live_kitchen
        self._demand = demand
        self._measurement = measurement
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

    async def find(self, asked: QueryContext) -> PrecomputedAnswer | None:
        """The answer to a question, if it is there and still right, or is being made."""
        try:
            return await self._find(asked)
        except (RedisError, OSError, ClientError, BotoCoreError) as error:
            log.warning("no look ahead: %s", type(error).__name__)
            return None

    async def _find(self, asked: QueryContext) -> PrecomputedAnswer | None:
        optimisations = asked.release.optimisations
        self.follow_ups.session(asked).program = ""
        meaning = self._reader.read(asked.text)
        topic, need = self._need(asked, meaning)
        if not self._settings.answers_ahead:
            need = None
        if need is not None and optimisations.follow_up_prediction:
            found = await self._follow_up(asked, need)
            if found is not None:
                return found
        if need is not None and topic is not None and self.batch.is_shareable(need):
            return await self._for_everybody(asked, topic, need) if optimisations.trending_answers else None
        if optimisations.semantic_cache and ROUTES[asked.intent].shareable and not meaning.pointing:
            return await self._stored(asked, meaning)
        return None

    async def _stored(self, asked: QueryContext, meaning: Meaning) -> PrecomputedAnswer | None:
        """The answer to this question, or to others that support it."""
        session = self.follow_ups.session(asked)
        known = self.shared.recognise(asked.text, meaning)
        if session.similarity_hit is not None:
            # Asked again in other words: the answer was not the one that was wanted (Hassan et al. 2013).
            language, label, probability = session.similarity_hit
            session.similarity_hit = None
            again = known is not None and known.label == label
            self.spawn(self.shared.record_feedback(language, label, probability, right=not again))
        if known is None or not known.accepted:
            return None
        prepared = await self.shared.get(asked.intent, known.label, meaning, asked.text)
        if prepared is None or not await self._right(asked, prepared):
            return None
        if not known.exact:
            session.similarity_hit = (meaning.language, known.label, known.probability)
        return CachedAnswer(prepared)

    async def _follow_up(self, asked: QueryContext, need: CanonicalQuestion) -> PrecomputedAnswer | None:
        prepared, flight = await self.follow_ups.find(asked, need)
        if flight is not None:
            topic = self._topics.by_name[need.topic]
            return InFlightAnswer(flight, topic.intent, self._settings.haiku_model_id, "precomputed", first=False)
        if prepared is not None and await self._facts.unchanged_for(prepared, asked.customer):
            return CachedAnswer(prepared)
        return None

    async def _for_everybody(
        self, asked: QueryContext, topic: Topic, need: CanonicalQuestion
    ) -> PrecomputedAnswer | None:
        """The shared answer to a need; where there is none, one flight makes it for all who ask."""
        allowed = not held_out(asked.session_id, self._settings.held_out_share)
        key = self.batch.generation_key(need)
        if self.batch.running(key) is None:
            title = (await self._facts.titles([need.title])).get(need.title)
            if title is None:
                return None
            question = standard_wording(need, title)
            prepared = await self.shared.get(topic.intent, need.topic, self._reader.read(question), question)
            if prepared is not None and prepared.program and not allowed:
                return None
            if prepared is not None and await self._right(asked, prepared):
                self.follow_ups.session(asked).program = prepared.program
                return CachedAnswer(prepared)
        first = self.batch.running(key) is None
        flight = self.batch.start(self._live_kitchen, need)
        model_id = shared_answer_spec(need, topic, asked.release, self._settings).model_id
        return InFlightAnswer(flight, topic.intent, model_id, "model" if first else SEMANTIC, first=first)

    async def _right(self, asked: QueryContext, prepared: GeneratedAnswer) -> bool:
        """Whether a shared answer is still built on what is so now. One past its freshness is served, and made anew once."""
        if prepared.built_on and prepared.built_on != self._built_on(asked, prepared.intent):
            return False
        if not await self._facts.unchanged_for(prepared, asked.customer):
            return False
        if prepared.fresh_until_s and prepared.fresh_until_s < time.time() and prepared.need:
            self.batch.refresh(CanonicalQuestion.from_key(prepared.need), prepared.source, prepared.program)
        return True

    def _built_on(self, asked: QueryContext, intent: Intent) -> str:
        prompt = self._prompts.lookup(intent, asked.release.prompt_versions.get(intent))
        return fingerprint(prompt, asked.release.model_id(intent, ROUTES[intent], self._settings))

    def _need(self, asked: QueryContext, meaning: Meaning) -> tuple[Topic | None, CanonicalQuestion | None]:
        """What is asked for, when that is all that is asked: nothing about numbers, other names, or what is not."""
        found = self._topics.of(asked.text, meaning)
        if found is None:
            return None, None
        topic = found[0]
        more = meaning.numbers and topic.name != "release"
        if more or meaning.names or meaning.orders or meaning.negations or len(meaning.titles) > 1:
            return topic, None
        if not topic.about_title:
            return topic, None if meaning.titles else CanonicalQuestion(topic.name, "", meaning.language)
        title = (
            meaning.titles[0]
            if meaning.titles
            else self.follow_ups.session(asked).current_title
            if meaning.pointing
            else ""
        )
        return topic, CanonicalQuestion(topic.name, title, meaning.language) if title else None

    # While and after it

    async def titles(self, manga_ids: list[str]) -> dict[str, Manga]:
        """The facts as whatever changes the catalogue has last said them."""
        try:
            return await self._facts.titles(manga_ids)
        except (RedisError, OSError) as error:
            log.warning("no facts about titles: %s", error)
            return {}

    def on_first_token(self, asked: QueryContext, titles: list[str]) -> None:
        """Note what is asked, and let the likeliest follow-ups be made."""
        if not self._settings.answers_ahead:
            return
        meaning = self._reader.read(asked.text)
        topic, need = self._need(asked, meaning)
        name = topic.name if topic else _UNRECOGNISED.get(asked.intent, asked.intent.value)
        session = self.follow_ups.session(asked)
        about = [need.title] if need and need.title else list(meaning.titles)
        self._learn(session, name, about)
        if asked.release.optimisations.follow_up_prediction:
            shown = about if len(about) == 1 else titles
            self.follow_ups.predict_follow_ups(asked, name, shown, meaning.language, saved_s=self._live_s)
            if len(about) == 1 and len(titles) > 1:
                session.listed_titles = [title for title in titles if title not in about]
        if need is not None and self.batch.is_shareable(need):
            self.spawn(self._demand.count(need.key))

    def on_completed(self, asked: QueryContext, given: CompletedAnswer) -> None:
        """Keep what may be everybody's, and count what warming brought."""
        if not self._settings.answers_ahead:
            return
        if given.source == "model":
            self._live_s += _SMOOTHING * (given.total_ms / 1000 - self._live_s)
            self.spawn(self._keep(asked, given))
        self.spawn(self._count(asked, given))

    def on_session_closed(self, customer: str, session_id: str) -> None:
        """The session is over."""
        self.follow_ups.on_session_closed(customer, session_id)

    def _learn(self, session: ConversationState, name: str, about: list[str]) -> None:
        if session.history and session.history[-1] != name:
            title = about[0] if about else ""
            self._model.observe(session.history, name, session.relation_of(title), at_us=int(time.time() * 1e6))

    async def _keep(self, asked: QueryContext, given: CompletedAnswer) -> None:
        """A live answer becomes everybody's when nothing of a customer or a conversation can be in it."""
        if not asked.release.optimisations.semantic_cache or given.history or not ROUTES[asked.intent].shareable:
            return
        meaning = self._reader.read(asked.text)
        topic, need = self._need(asked, meaning)
        if need is not None and topic is not None and self.batch.is_shareable(need):
            return  # its flight has kept it
        if meaning.pointing or meaning.orders or without_personal_data(asked.text) != asked.text:
            return
        now_s = time.time()
        mentioned = self._reader.read(f"{asked.text}\n{given.text}").titles
        prepared = GeneratedAnswer(
            text=given.text,
            intent=asked.intent,
            source=SEMANTIC,
            model_id=given.model_id,
            tokens=given.tokens,
            depends=await self._facts.fingerprints(list(dict.fromkeys(mentioned)), None),
            built_on=self._built_on(asked, asked.intent),
            made_at_s=now_s,
            fresh_until_s=now_s + self._settings.cache_fresh_s,
        )
        known = self.shared.recognise(asked.text, meaning)
        label = known.label if known is not None and known.accepted else own_label(asked.text, meaning)
        await self.shared.put(asked.intent, label, meaning, asked.text, prepared)

    async def _count(self, asked: QueryContext, given: CompletedAnswer) -> None:
        """For questions that warming can meet: which programme met it, if one did, and how long it took."""
        _, need = self._need(asked, self._reader.read(asked.text))
        if need is None or not self.batch.is_shareable(need):
            return
        warmed = not held_out(asked.session_id, self._settings.held_out_share)
        program = self.follow_ups.session(asked).program
        await self._measurement.count(warmed=warmed, program=program, total_ms=given.total_ms, tokens=given.tokens)


async def _contained(coroutine: Coroutine[Any, Any, None]) -> None:
    try:
        await coroutine
    except (RedisError, OSError, TimeoutError, MangaError) as error:
        log.warning("pre-computation: %s: %s", type(error).__name__, error)
    except Exception:
        log.exception("pre-computation failed")
