"""The workload: which questions a run asks, in which order and when; reproducible from a seed.

Questions are templates filled with titles of the catalogue, popular ones more often (Zipf), in English and Japanese. Some
continue a conversation: they are about the same title, in the same session. Arrivals are a Poisson process, independent of
the answers.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mangalib.domain import Catalogue, Intent, Manga, Phrasing, load_phrasings
from mangalib.errors import DataError
from mangalib.settings import WorkloadSettings

SYNTHETIC, PRODUCTION = "synthetic", "production"
# Intents that typically follow, about the same title.
_FOLLOW_UPS = {
    Intent.RECOMMENDATION: (Intent.PRODUCT_SEARCH, Intent.COMPARISON),
    Intent.PRODUCT_SEARCH: (Intent.FAQ, Intent.COMPARISON),
    Intent.COMPARISON: (Intent.PRODUCT_SEARCH, Intent.RECOMMENDATION),
    Intent.ORDER_STATUS: (Intent.COMPLAINT, Intent.FAQ),
    Intent.GREETING: (Intent.RECOMMENDATION, Intent.OTHER),
}
_GENRES = ("fantasy", "horror", "romance", "sports", "mystery", "comedy")
_SENDABLE = frozenset(intent for intent in Intent if intent is not Intent.DEFAULT)

# An intent, the text (``None``: to be filled from a template), and the origin.
_Start = tuple[Intent, str | None, str]


@dataclass(frozen=True)
class Question:
    """One request: ``due_s`` is in s since the run's start, ``sequence`` counts the questions of its intent from 0."""

    due_s: float
    intent: Intent
    text: str
    sequence: int
    origin: str = SYNTHETIC


@dataclass
class Conversation:
    """Questions of one session, in the order in which they are due."""

    questions: list[Question] = field(default_factory=list)


def make_workload(
    settings: WorkloadSettings,
    *,
    per_intent: int,
    seed: int,
    production: Path | None = None,
    rate_per_s: float | None = None,
) -> list[Conversation]:
    """Conversations in the order in which they begin: ``per_intent`` questions of each intent, all intents interleaved.

    With ``production``, a query log of the orchestrator, questions from it are added, at most ``per_intent`` of each intent.
    Raises ``DataError`` when a file is missing or malformed.
    """
    if per_intent < 1:
        raise DataError(f"per_intent={per_intent}; expected 1 or more")
    rng = random.Random(seed)
    writer = _Writer(settings, rng)
    intents = _interleaved(per_intent, rng)
    sampled = _sampled(read_query_log(production), per_intent, rng) if production is not None else []
    starts: list[_Start] = [(intent, None, SYNTHETIC) for intent in intents]
    starts += [(intent, text, PRODUCTION) for intent, text in sampled]
    if sampled:
        rng.shuffle(starts)
    return _timed(starts, writer, rng, rate_per_s or settings.benchmark_rate_per_s, settings)


def read_query_log(path: Path) -> list[tuple[Intent, str]]:
    """Intent and text of each line; raises ``DataError`` naming a line that is malformed."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            found.append((Intent(entry["intent"]), str(entry["text"])))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}, line {number}: {error}; expected at, intent and text as JSON") from None
    if not found:
        raise DataError(f"{path}: empty; expected one question a line")
    return found


def _interleaved(per_intent: int, rng: random.Random) -> list[Intent]:
    """Blocks of every intent once, each in random order, so that anything that drifts affects all intents alike."""
    order: list[Intent] = []
    for _ in range(per_intent):
        block = sorted(_SENDABLE)
        rng.shuffle(block)
        order += block
    return order


def _sampled(logged: list[tuple[Intent, str]], at_most: int, rng: random.Random) -> list[tuple[Intent, str]]:
    by_intent: dict[Intent, list[tuple[Intent, str]]] = {}
    for entry in logged:
        if entry[0] in _SENDABLE:
            by_intent.setdefault(entry[0], []).append(entry)
    return [
        entry
        for intent in sorted(by_intent)
        for entry in rng.sample(by_intent[intent], min(at_most, len(by_intent[intent])))
    ]


def _timed(
    starts: list[_Start],
    writer: _Writer,
    rng: random.Random,
    rate_per_s: float,
    settings: WorkloadSettings,
) -> list[Conversation]:
    """Give each question its time, and append some to a conversation that has begun already."""
    conversations: list[Conversation] = []
    open_for: dict[Intent, list[tuple[Conversation, Manga]]] = {}
    counts: dict[Intent, int] = {}
    due_s = 0.0
    for intent, text, origin in starts:
        due_s += rng.expovariate(rate_per_s)
        manga = writer.title()
        conversation = Conversation()
        waiting = open_for.get(intent, [])
        if text is None and waiting and rng.random() < settings.follow_up_share:
            before, title = waiting.pop(0)
            if due_s - before.questions[-1].due_s >= settings.follow_up_after_s:
                conversation, manga = before, title
        question_text = text if text is not None else writer.phrase(intent, manga)
        conversation.questions.append(Question(due_s, intent, question_text, counts.get(intent, 0), origin))
        counts[intent] = counts.get(intent, 0) + 1
        if len(conversation.questions) == 1:
            conversations.append(conversation)
        for following in _FOLLOW_UPS.get(intent, ()):
            open_for.setdefault(following, []).append((conversation, manga))
    return conversations


class _Writer:
    """Fills query templates with titles."""

    def __init__(self, settings: WorkloadSettings, rng: random.Random) -> None:
        self._rng = rng
        self._titles = Catalogue.load(settings.data_dir / "catalogue.csv").items
        # The catalogue is in the order of sales: the position is the rank.
        self._weights = [1 / rank**settings.title_zipf_exponent for rank in range(1, len(self._titles) + 1)]
        self._japanese_share = settings.japanese_share
        self._phrasings: dict[tuple[Intent, str], list[Phrasing]] = {}
        for phrasing in load_phrasings(settings.data_dir / "query_templates.csv"):
            self._phrasings.setdefault((phrasing.intent, phrasing.language), []).append(phrasing)

    def title(self) -> Manga:
        return self._rng.choices(self._titles, self._weights)[0]

    def phrase(self, intent: Intent, manga: Manga) -> str:
        language = "ja" if self._rng.random() < self._japanese_share else "en"
        other = next(title for title in iter(self.title, None) if title.manga_id != manga.manga_id)
        slots = {
            "title": manga.title,
            "title_ja": manga.title_ja,
            "title2": other.title,
            "title2_ja": other.title_ja,
            "genre": self._rng.choice(_GENRES),
            "author": manga.author,
            "order": f"MA-{self._rng.randrange(10_000, 99_999)}",
        }
        return self._rng.choice(self._phrasings[intent, language]).template.format(**slots)


def questions_of(conversations: list[Conversation]) -> Iterator[Question]:
    """All questions, conversation by conversation."""
    for conversation in conversations:
        yield from conversation.questions
