"""A question as it is understood: parsed once when it comes in, and passed along."""

from __future__ import annotations

from dataclasses import dataclass

from mangalib.domain import Intent, Manga, named_intent
from mangalib.nlu.classifier import IntentClassifier
from mangalib.nlu.embedding import Vectors, embed_phrasing
from mangalib.nlu.meaning import Meaning, MeaningReader
from mangalib.nlu.topics import Topic, Topics


@dataclass(frozen=True)
class ParsedQuestion:
    """A question with everything that serving needs to know about it.

    ``embedding`` is the unit vector of ``meaning.phrasing``, of shape ``(256,)``. ``confidence`` is the probability of the
    intent, 1 where the client named it. ``topic`` is ``None`` where there is too little evidence for one.
    """

    text: str
    meaning: Meaning
    titles: tuple[Manga, ...]
    embedding: Vectors
    intent: Intent
    confidence: float
    topic: Topic | None


class QuestionParser:
    """Parses questions: finds titles, meaning, embedding, intent and topic, each once."""

    def __init__(self, reader: MeaningReader, classifier: IntentClassifier, topics: Topics) -> None:
        self._reader = reader
        self._classifier = classifier
        self._topics = topics

    def parse(self, text: str, intent: str | None = None) -> ParsedQuestion:
        """Parse ``text``; a given ``intent`` is not classified. Raises ``BadRequestError`` for an unknown ``intent``."""
        marked = self._reader.mark_titles(text)
        meaning = self._reader.read_marked(marked)
        embedding = embed_phrasing(meaning.phrasing, meaning.language)
        if intent:
            intent_found, confidence = named_intent(intent), 1.0
        else:
            intent_found, confidence = self._classifier.classify(marked.masked)
        topic = self._topics.of(text, meaning, embedding)
        return ParsedQuestion(text, meaning, marked.titles, embedding, intent_found, confidence, topic)
