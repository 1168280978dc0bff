"""A question, understood once: at the entrance, for everything that comes after."""

from __future__ import annotations

from dataclasses import dataclass

from mangalib.domain import Intent, Manga, named_intent
from mangalib.nlu.classifier import IntentClassifier
from mangalib.nlu.embedding import Vectors, embed_phrasing
from mangalib.nlu.meaning import Meaning, MeaningReader
from mangalib.nlu.topics import Topic, Topics


@dataclass(frozen=True)
class ParsedQuestion:
    """``embedding`` is that of the phrasing, of shape ``(256,)``; ``confidence`` is the classifier's, 1 where the client named
    the intent itself; ``topic`` is ``None`` where it is not certain enough."""

    text: str
    meaning: Meaning
    titles: tuple[Manga, ...]
    embedding: Vectors
    intent: Intent
    confidence: float
    topic: Topic | None


class QuestionParser:
    """Finds titles, meaning, intent, topic and embedding, each once."""

    def __init__(self, reader: MeaningReader, classifier: IntentClassifier, topics: Topics) -> None:
        self._reader = reader
        self._classifier = classifier
        self._topics = topics

    def parse(self, text: str, intent: str | None = None) -> ParsedQuestion:
        """Understand ``text``; raises ``BadRequestError`` for an ``intent`` that does not exist."""
        marked = self._reader.mark_titles(text)
        meaning = self._reader.read_marked(marked)
        embedding = embed_phrasing(meaning.phrasing, meaning.language)
        if intent:
            named, confidence = named_intent(intent), 1.0
        else:
            named, confidence = self._classifier.classify(marked.masked)
        topic = self._topics.of(text, meaning, embedding)
        return ParsedQuestion(text, meaning, marked.titles, embedding, named, confidence, topic)
