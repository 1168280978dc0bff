"""Pre-computation as serving uses it: finds answers, and during and after an answer prepares the next ones."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from redis.exceptions import RedisError

from mangalib.domain import ROUTES, Intent, Manga
from mangalib.errors import MangaError
from mangalib.nlu import MeaningReader, without_personal_data
from mangalib.precompute.conversation import ConversationState
from mangalib.precompute.facts import Facts
from mangalib.precompute.finder import AnswerFinder
from mangalib.precompute.follow_ups import FollowUps
from mangalib.precompute.generated_answer import SEMANTIC, CanonicalQuestion, GeneratedAnswer
from mangalib.precompute.generation.spec import prompt_fingerprint
from mangalib.precompute.prediction.live_model import LiveModel
from mangalib.precompute.shared_answers import SharedAnswers, own_label
from mangalib.precompute.warming.batch import WarmingBatch
from mangalib.precompute.warming.demand import Demand
from mangalib.precompute.warming.measurement import WarmingMeasurement, held_out
from mangalib.serving import CompletedAnswer, PrecomputedAnswer, PromptStore, QueryContext
from mangalib.settings import PrecomputeSettings

log = logging.getLogger(__name__)

# The topic in the history of a question whose topic is not recognised; for other intents, the intent itself.
_TOPIC_OF_INTENT = {
    Intent.RECOMMENDATION: "recommendation",
    Intent.ORDER_STATUS: "order_status",
    Intent.PRODUCT_SEARCH: "product_inquiry",
}
_SMOOTHING = 0.1


class Precompute:
    """Use as ``async with Precompute(...) as precompute``; leaving it awaits the tasks that it has started."""

    def __init__(
        self,
        *,
        finder: AnswerFinder,
        reader: MeaningReader,
        shared: SharedAnswers,
        facts: Facts,
        prompts: PromptStore,
        follow_ups: FollowUps,
        batch: WarmingBatch,
        demand: Demand,
        measurement: WarmingMeasurement,
        model: LiveModel,
        settings: PrecomputeSettings,
    ) -> None:
        self._finder = finder
        self._reader = reader
        self._shared = shared
        self._facts = facts
        self._prompts = prompts
        self._follow_ups = follow_ups
        self._batch = batch
        self._demand = demand
        self._measurement = measurement
        self._model = model
        self._settings = settings
        self._live_s = settings.expected_follow_up_saving_ms / 1000
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Precompute:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._tasks.__aexit__(None, None, None)

    # Before an answer

    async def find(self, context: QueryContext) -> PrecomputedAnswer | None:
        """The answer to a question, if one is stored and still right, or is being generated."""
        try:
            return await self._finder.find(context, self._spawn)
        except (RedisError, OSError, ClientError, BotoCoreError) as error:
            log.warning("precomputed answers not looked up: %s", type(error).__name__)
            return None

    async def titles(self, manga_ids: list[str]) -> dict[str, Manga]:
        """Current facts of titles; unknown ones are left out."""
        try:
            return await self._facts.titles(manga_ids)
        except (RedisError, OSError) as error:
            log.warning("facts of titles not read: %s", error)
            return {}

    # While and after it

    def on_first_token(self, context: QueryContext, titles: list[str]) -> None:
        """Record what is asked, and have the most probable follow-ups generated."""
        if not self._settings.answers_ahead:
            return
        meaning, topic, intent = context.question.meaning, context.question.topic, context.question.intent
        session = self._follow_ups.session(context)
        canonical = session.canonical_question(context.question)
        name = topic.name if topic else _TOPIC_OF_INTENT.get(intent, intent.value)
        about = [canonical.title] if canonical and canonical.title else list(meaning.titles)
        self._observe(session, name, about)
        if context.release.optimisations.follow_up_prediction:
            session.ask(name, about if len(about) == 1 else titles, meaning.language)
            self._follow_ups.predict_and_submit(context, saved_s=self._live_s)
            if len(about) == 1 and len(titles) > 1:
                session.listed_titles = [title for title in titles if title not in about]
        if canonical is not None and self._batch.is_shareable(canonical):
            self._spawn(self._demand.count(canonical.key))

    def on_completed(self, context: QueryContext, completed: CompletedAnswer) -> None:
        """Store an answer that may be shared, and measure warming."""
        if not self._settings.answers_ahead:
            return
        if completed.source == "model":
            self._live_s += _SMOOTHING * (completed.total_ms / 1000 - self._live_s)
            self._spawn(self._store_if_shareable(context, completed))
        self._spawn(self._measure_warming(context, completed))

    def on_session_closed(self, customer: str, session_id: str) -> None:
        """The session is closed: cancel its follow-ups."""
        self._follow_ups.on_session_closed(customer, session_id)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._tasks.create_task(_log_failure(coroutine))

    def _observe(self, session: ConversationState, topic: str, titles: list[str]) -> None:
        if session.history and session.history[-1] != topic:
            relation = session.relation_of(titles[0] if titles else "")
            self._model.observe(session.history, topic, relation, at_us=int(time.time() * 1e6))

    def _shareable(self, context: QueryContext) -> CanonicalQuestion | None:
        """The canonical question, if its answer is one of those about titles that all customers share."""
        canonical = self._follow_ups.session(context).canonical_question(context.question)
        return canonical if canonical is not None and self._batch.is_shareable(canonical) else None

    async def _store_if_shareable(self, context: QueryContext, completed: CompletedAnswer) -> None:
        """Store a live answer in the semantic cache, unless it may contain anything of a customer or a conversation."""
        question, release = context.question, context.release
        text, meaning, intent = question.text, question.meaning, question.intent
        if not release.optimisations.semantic_cache or completed.had_history or not ROUTES[intent].shareable:
            return
        if self._shareable(context) is not None:
            return  # its generation has stored it
        if meaning.refers_back or meaning.orders or without_personal_data(text) != text:
            return
        now_s = time.time()
        mentioned = self._reader.read(f"{text}\n{completed.text}").titles
        model_id = release.model_id(intent, ROUTES[intent], self._settings)
        answer = GeneratedAnswer(
            text=completed.text,
            intent=intent,
            source=SEMANTIC,
            model_id=completed.model_id,
            tokens=completed.tokens,
            depends=await self._facts.fingerprints(list(dict.fromkeys(mentioned))),
            built_on=prompt_fingerprint(self._prompts, release, intent, model_id),
            fresh_until_s=now_s + self._settings.cache_fresh_s,
        )
        recognised = self._shared.recognise(question)
        accepted = recognised is not None and recognised.accepted
        label = recognised.label if recognised is not None and accepted else own_label(text, meaning)
        await self._shared.put(intent, label, meaning, text, answer)

    async def _measure_warming(self, context: QueryContext, completed: CompletedAnswer) -> None:
        if self._shareable(context) is None:
            return
        warmed = not held_out(context.session_id, self._settings.held_out_share)
        program = self._follow_ups.session(context).program
        await self._measurement.count(
            warmed=warmed, program=program, total_ms=completed.total_ms, tokens=completed.tokens
        )


async def _log_failure(coroutine: Coroutine[Any, Any, None]) -> None:
    try:
        await coroutine
    except (RedisError, OSError, TimeoutError, MangaError) as error:
        log.warning("pre-computation: %s: %s", type(error).__name__, error)
    except Exception:
        log.exception("pre-computation failed")
