"""Routing: what a question is about, and which way it takes because of that.

The classifier is multinomial logistic regression on character n-grams (no word boundaries needed, so Japanese works
like English), trained when the process starts, on the templates marked ``train`` in ``data/query_templates.csv``.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from mangalib.errors import BadRequestError, DataError
from mangalib.serving.catalogue import Catalogue
from mangalib.settings import Settings


class Intent(StrEnum):
    """What a customer wants. ``DEFAULT`` is no intent of its own: it is the way taken when the classifier is unsure."""

    RECOMMENDATION = "recommendation"
    PRODUCT_SEARCH = "product_search"
    ORDER_STATUS = "order_status"
    COMPARISON = "comparison"
    COMPLAINT = "complaint"
    FAQ = "faq"
    GREETING = "greeting"
    OTHER = "other"
    DEFAULT = "default"


@dataclass(frozen=True)
class Route:
    """The way of one intent: Haiku or Sonnet, with retrieval or without, with the customer's own data or without."""

    large_model: bool
    retrieval: bool
    personal: bool
    status_text: str

    @property
    def shareable(self) -> bool:
        """The answer is the same for every customer, so a shared cache may hold it."""
        return not self.personal

    @property
    def knows_customer(self) -> bool:
        """The customer's record is looked up: for its own sake, or for what was said before."""
        return self.personal or self.retrieval

    def model_id(self, settings: Settings) -> str:
        """The model that answers on this route."""
        return settings.sonnet_model_id if self.large_model else settings.haiku_model_id


ROUTES: dict[Intent, Route] = {
    Intent.RECOMMENDATION: Route(True, True, True, "Looking up manga recommendations for you..."),
    Intent.PRODUCT_SEARCH: Route(True, True, False, "Searching our manga catalog..."),
    Intent.ORDER_STATUS: Route(False, False, True, "Checking your order status..."),
    Intent.COMPARISON: Route(True, True, False, "Analyzing both titles for you..."),
    Intent.COMPLAINT: Route(True, False, True, "I understand your concern. Looking into this..."),
    Intent.FAQ: Route(False, False, False, "Let me find that answer..."),
    Intent.GREETING: Route(False, False, False, ""),
    Intent.OTHER: Route(False, False, False, "Working on your request..."),
    # When unsure, the careful way: the large model, with everything that may help it.
    Intent.DEFAULT: Route(True, True, True, "Working on your request..."),
}


@dataclass(frozen=True)
class Phrasing:
    """One line of the template file."""

    intent: Intent
    language: str
    split: str
    template: str


def load_phrasings(path: Path) -> list[Phrasing]:
    """Read ``query_templates.csv``; raises ``DataError`` naming the line that is wrong."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return [Phrasing(Intent(r["intent"]), r["language"], r["split"], r["template"]) for r in rows]
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{path}: {error}; expected columns intent, language, split, template") from error


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


def named_intent(name: str) -> Intent:
    """The intent that a client asked for by name; raises ``BadRequestError`` for one that does not exist."""
    try:
        return Intent(name)
    except ValueError:
        raise BadRequestError(f"intent: {name[:40]!r}; expected one of {', '.join(Intent)}") from None
