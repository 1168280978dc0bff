"""Recognises which known answer a question asks for: by an exact match, or by similarity with enough evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from mangalib.nlu.embedding import Vectors, embed
from mangalib.nlu.evidence import EvidenceModel, learn_evidence, weigh_neighbours
from mangalib.nlu.meaning import Meaning, folded_question
from mangalib.nlu.question_index import QuestionIndex
from mangalib.settings import CacheSettings


@dataclass(frozen=True)
class Recognised:
    """The label of the answer that a question asks for, and the probability that it is right.

    ``exact``: the question itself is stored. ``accepted``: the evidence is enough to give the answer.
    """

    label: str
    exact: bool
    accepted: bool
    probability: float


class Recogniser:
    """Stored questions of all languages, and a model of the evidence for each; holds no answers."""

    def __init__(self, settings: CacheSettings) -> None:
        self._settings = settings
        self._indexes: dict[str, QuestionIndex] = {}
        self._models: dict[str, EvidenceModel] = {}
        self._exact: dict[str, str] = {}
        self._labels: list[str] = []
        self._label_number: dict[str, int] = {}
        self._shape_number: dict[object, int] = {}

    def __len__(self) -> int:
        return sum(len(index) for index in self._indexes.values())

    def add(self, questions: Sequence[tuple[str, Meaning, str]]) -> None:
        """Store questions: text, meaning and the label of the answer. A question that is stored already is replaced."""
        by_language: dict[str, list[tuple[str, Meaning, str]]] = {}
        for question in questions:
            by_language.setdefault(question[1].language, []).append(question)
        for language, batch in by_language.items():
            index = self._indexes.setdefault(language, QuestionIndex())
            keys = [exact_key(text, meaning) for text, meaning, _ in batch]
            vectors = embed([meaning.phrasing for _, meaning, _ in batch], language)
            labels = [self._number_of(label) for _, _, label in batch]
            shapes = [self._shape_of(meaning) for _, meaning, _ in batch]
            index.add(keys, vectors, labels, shapes)
            self._exact.update(zip(keys, (label for _, _, label in batch), strict=True))

    def remove(self, key: str) -> None:
        """Remove the question with that :func:`exact_key`."""
        if self._exact.pop(key, None) is not None:
            for index in self._indexes.values():
                index.remove(key)

    def recognise(self, text: str, meaning: Meaning, embedding: Vectors) -> Recognised | None:
        """The most probable answer to ``text``, accepted or not; ``None`` when no question in its language is stored.

        ``embedding``, of shape ``(256,)``, is that of ``meaning.phrasing``.
        """
        label = self._exact.get(exact_key(text, meaning)) or self._exact.get(exact_key(meaning.phrasing, meaning))
        if label is not None:
            return Recognised(label, exact=True, accepted=True, probability=1.0)
        index = self._indexes.get(meaning.language)
        if index is None or not len(index):
            return None
        near = index.nearest(embedding, self._settings.cache_neighbours)
        vote = weigh_neighbours(embedding, *near, self._shape_of(meaning), index.centres)
        if vote is None:
            return None
        model = self._models.get(meaning.language, EvidenceModel())
        name = self._labels[vote.label]
        accepted = model.accepts(name, vote, self._settings)
        return Recognised(name, exact=False, accepted=accepted, probability=model.probability(vote))

    def learn(self) -> None:
        """Fit the evidence models to the stored questions; takes seconds for ten thousand of them."""
        for language, index in self._indexes.items():
            self._models[language] = learn_evidence(*index.contents(), self._labels, self._settings)

    def record_feedback(self, language: str, label: str, probability: float, right: bool) -> None:
        """Learn from one answer given by similarity whether it was right; that answer's threshold moves."""
        model = self._models.get(language, EvidenceModel())
        self._models[language] = model.record_feedback(label, probability, right, self._settings.cache_false_hits_max)

    def dump(self) -> bytes:
        """The evidence models, for :meth:`load`."""
        return msgspec.json.encode(self._models)

    def load(self, models: bytes) -> None:
        """Replace the evidence models by those of another process's :meth:`dump`."""
        self._models = msgspec.json.decode(models, type=dict[str, EvidenceModel])

    def _number_of(self, label: str) -> int:
        if label not in self._label_number:
            self._label_number[label] = len(self._labels)
            self._labels.append(label)
        return self._label_number[label]

    def _shape_of(self, meaning: Meaning) -> int:
        return self._shape_number.setdefault(meaning.shape, len(self._shape_number))


def exact_key(text: str, meaning: Meaning) -> str:
    """Equal for questions of one language that are the same text after :func:`folded_question`."""
    return f"{meaning.language}:{folded_question(text)}"
