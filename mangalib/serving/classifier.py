"""The classifier: what a question is about.

Multinomial logistic regression on character n-grams (no word boundaries needed, so Japanese works like English), trained
when the process starts, on the phrasings marked ``train``.
"""

from __future__ import annotations

import re

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from mangalib.serving.catalogue import Catalogue
from mangalib.serving.phrasings import Phrasing, load_phrasings
from mangalib.serving.routing import Intent
from mangalib.settings import Settings

# What a text is about shows at its beginning, and the time that this takes must not grow with the text.
CLASSIFIED_CHARS = 400

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
        self._model = Pipeline(
            [
                ("ngrams", TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 5), sublinear_tf=True)),
                ("regression", LogisticRegression(C=20.0, max_iter=400)),
            ]
        )
        self._model.fit(texts, [phrasing.intent.value for phrasing in phrasings])

    @classmethod
    def from_data(cls, settings: Settings, catalogue: Catalogue) -> IntentClassifier:
        """Trained on the ``train`` split of the shipped templates."""
        phrasings = load_phrasings(settings.data_dir / "query_templates.csv")
        train = [phrasing for phrasing in phrasings if phrasing.split == "train"]
        return cls(train, catalogue, confidence_min=settings.intent_confidence_min)

    def classify(self, text: str) -> Intent:
        """The intent of ``text``; ``Intent.DEFAULT`` where none is likelier than ``confidence_min``."""
        masked = _ORDER.sub("ORDER", self._catalogue.mask(text[:CLASSIFIED_CHARS]))
        probabilities = self._model.predict_proba([masked])[0]
        best = probabilities.argmax()
        if probabilities[best] < self._confidence_min:
            return Intent.DEFAULT
        return Intent(self._model.classes_[best])
