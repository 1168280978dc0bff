"""Which known answer a question asks for: the same question as before, or one that enough others support."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from mangalib.nlu.embedding import embed
from mangalib.nlu.evidence import EvidenceModel, learn_evidence, weigh_neighbours
from mangalib.nlu.meaning import Meaning, folded_question
from mangalib.nlu.question_index import QuestionIndex
from mangalib.settings import Settings


@dataclass(frozen=True)
class Recognised:
    """What a question asks for: exactly a stored one, or by similarity with a probability that was ``accepted`` or not."""

    label: str
    exact: bool
    accepted: bool
    probability: float


class Recogniser:
    """Stored questions of all languages, with what was learned from them. Holds no answers."""

    def __init__(self, settings: Settings) -> None:
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
        """Store questions: text, meaning and the label of what answers them. Of two alike the later one counts."""
        by_language: dict[str, list[tuple[str, Meaning, str]]] = {}
        for question in questions:
            by_language.setdefault(question[1].language, []).append(question)
        for language, some in by_language.items():
            index = self._indexes.setdefault(language, QuestionIndex())
            keys = [exact_key(text, meaning) for text, meaning, _ in some]
            vectors = embed([meaning.phrasing for _, meaning, _ in some], language)
            labels = [self._number_of(label) for _, _, label in some]
            shapes = [self._shape_of(meaning) for _, meaning, _ in some]
            index.add(keys, vectors, labels, shapes)
            self._exact.update(zip(keys, (label for _, _, label in some), strict=True))

    def remove(self, key: str) -> None:
        """Forget the question of that :func:`exact_key`."""
        if self._exact.pop(key, None) is not None:
            for index in self._indexes.values():
                index.remove(key)

    def recognise(self, text: str, meaning: Meaning) -> Recognised | None:
        """What ``text`` asks for, as far as can be said; ``None`` when nothing like it is stored."""
        label = self._exact.get(exact_key(text, meaning)) or self._exact.get(exact_key(meaning.phrasing, meaning))
        if label is not None:
            return Recognised(label, exact=True, accepted=True, probability=1.0)
        index = self._indexes.get(meaning.language)
        if index is None or not len(index):
            return None
        vector = embed([meaning.phrasing], meaning.language)[0]
        near = index.nearest(vector, self._settings.cache_neighbours)
        judgement = weigh_neighbours(vector, *near, self._shape_of(meaning), index.centres)
        if judgement is None:
            return None
        model = self._models.get(meaning.language, EvidenceModel())
        name = self._labels[judgement.label]
        accepted = model.accepts(name, judgement, self._settings)
        return Recognised(name, exact=False, accepted=accepted, probability=model.probability(judgement))

    def learn(self) -> None:
        """Learn from what is stored how much evidence is enough. Takes seconds for ten thousand questions."""
        for language, index in self._indexes.items():
            self._models[language] = learn_evidence(*index.everything(), self._labels, self._settings)

    def record_feedback(self, language: str, label: str, probability: float, right: bool) -> None:
        """Feedback on an answer that was given by similarity."""
        model = self._models.get(language, EvidenceModel())
        self._models[language] = model.record_feedback(label, probability, right, self._settings.cache_false_hits_max)

    def dump(self) -> bytes:
        """What was learned, to be kept and taken over by others."""
        return msgspec.json.encode(self._models)

    def load(self, learned: bytes) -> None:
        """What another process has learned."""
        self._models = msgspec.json.decode(learned, type=dict[str, EvidenceModel])

    def _number_of(self, label: str) -> int:
        if label not in self._label_number:
            self._label_number[label] = len(self._labels)
            self._labels.append(label)
        return self._label_number[label]

    def _shape_of(self, meaning: Meaning) -> int:
        return self._shape_number.setdefault(meaning.shape, len(self._shape_number))


def exact_key(text: str, meaning: Meaning) -> str:
    """Equal for questions that are the same letter by letter, after folding."""
    return f"{meaning.language}:{folded_question(text)}"
