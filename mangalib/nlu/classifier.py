"""The classifier: what a question is about.

Multinomial logistic regression on groups of letters, weighted by how few phrasings have them (tf-idf: Spärck Jones 1972), fitted
when the process starts, to the phrasings marked ``train``.
"""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from mangalib.domain import Catalogue, Intent, Phrasing, load_phrasings
from mangalib.nlu.character_ngrams import ngrams_within_words
from mangalib.nlu.logistic_regression import Floats, fit, probabilities
from mangalib.settings import Settings

# What a text is about shows at its beginning, and the time that this takes must not grow with the text.
CLASSIFIED_CHARS = 400

_SIZES = range(1, 6)
_PENALTY = 0.05

_SLOT = re.compile(r"\{(\w+)\}")
_ORDER = re.compile(r"\b(?:MA-?)?\d{5,}\b", re.IGNORECASE)
_SLOT_WORDS = {
    **dict.fromkeys(("title", "title2", "title_ja", "title2_ja"), "TITLE"),
    "order": "ORDER",
    "genre": "fantasy",
    "author": "Akira Tanaka",
}


class IntentClassifier:
    """Says what a text is about, in well under the 50 ms that the budget gives it."""

    def __init__(self, phrasings: list[Phrasing], catalogue: Catalogue, *, confidence_min: float) -> None:
        self._catalogue = catalogue
        self._confidence_min = confidence_min
        texts = [_SLOT.sub(lambda slot: _SLOT_WORDS[slot[1]], phrasing.template) for phrasing in phrasings]
        counted = [_counted(text) for text in texts]
        having = Counter(group for counts in counted for group in counts)
        self._column = {group: column for column, group in enumerate(having)}
        self._rarity = 1 + np.log((1 + len(texts)) / (1 + np.array(list(having.values()), np.float64)))
        self._intents = sorted({phrasing.intent for phrasing in phrasings})
        classes = np.array([self._intents.index(phrasing.intent) for phrasing in phrasings])
        features = np.array([self._features(counts) for counts in counted])
        self._weights, self._intercepts = fit(features, classes, penalty=_PENALTY)

    @classmethod
    def from_data(cls, settings: Settings, catalogue: Catalogue) -> IntentClassifier:
        """Trained on the ``train`` split of the shipped templates."""
        phrasings = load_phrasings(settings.data_dir / "query_templates.csv")
        train = [phrasing for phrasing in phrasings if phrasing.split == "train"]
        return cls(train, catalogue, confidence_min=settings.intent_confidence_min)

    def classify(self, text: str) -> Intent:
        """The intent of ``text``; ``Intent.DEFAULT`` where none is likelier than ``confidence_min``."""
        masked = _ORDER.sub("ORDER", self._catalogue.mask(text[:CLASSIFIED_CHARS]))
        likely = probabilities(self._features(_counted(masked))[None], self._weights, self._intercepts)[0]
        best = likely.argmax()
        return Intent.DEFAULT if likely[best] < self._confidence_min else self._intents[best]

    def _features(self, counts: Counter[str]) -> Floats:
        features = np.zeros(len(self._rarity))
        for group, times in counts.items():
            column = self._column.get(group)
            if column is not None:
                features[column] = (1 + np.log(times)) * self._rarity[column]
        length = np.linalg.norm(features)
        return np.asarray(features / length if length else features)


def _counted(text: str) -> Counter[str]:
    return Counter(ngrams_within_words(text, _SIZES))
