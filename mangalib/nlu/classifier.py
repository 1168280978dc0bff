"""The intent classifier: multinomial logistic regression on tf-idf weights of character n-grams.

``tools/train_classifier.py`` trains it with scikit-learn and writes ``data/classifier.npz``, which is read at start.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mangalib.domain import ORDER_NUMBER, Intent, Phrasing
from mangalib.errors import DataError
from mangalib.nlu.character_ngrams import ngrams_within_words
from mangalib.nlu.logistic_regression import probabilities
from mangalib.settings import ClassifierSettings, DataSettings

# A question's intent shows at its beginning, and the time to classify must not grow with the text.
CLASSIFIED_CHARS = 400
NGRAM_SIZES = range(1, 6)

_SLOT = re.compile(r"\{(\w+)\}")
_SLOT_WORDS = {
    **dict.fromkeys(("title", "title2", "title_ja", "title2_ja"), "TITLE"),
    "order": "ORDER",
    "genre": "fantasy",
    "author": "Akira Tanaka",
}


@dataclass(frozen=True)
class ClassifierModel:
    """A trained model of ``d`` n-grams and ``k`` intents: ``idf`` is ``(d,)``, ``weights`` ``(d, k)``, ``intercepts`` ``(k,)``.

    ``fingerprint`` identifies the templates that it was trained on.
    """

    ngrams: list[str]
    idf: npt.NDArray[np.float32]
    intents: list[str]
    weights: npt.NDArray[np.float32]
    intercepts: npt.NDArray[np.float32]
    fingerprint: str

    def save(self, path: Path) -> None:
        """Write the model as a compressed NumPy archive."""
        np.savez_compressed(path, allow_pickle=False, **vars(self))

    @classmethod
    def load(cls, path: Path) -> ClassifierModel:
        """Read a file of :meth:`save`; raises ``DataError`` naming the file, what is wrong and how to train it again."""
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                model = cls(
                    ngrams=file["ngrams"].tolist(),
                    idf=file["idf"],
                    intents=[Intent(name) for name in file["intents"].tolist()],
                    weights=file["weights"],
                    intercepts=file["intercepts"],
                    fingerprint=str(file["fingerprint"]),
                )
            expected = (len(model.ngrams), len(model.intents))
            if model.weights.shape != expected:
                raise ValueError(f"weights of shape {model.weights.shape}, expected {expected}")
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: {error}; train the classifier: python -m tools.train_classifier") from error
        return model


class IntentClassifier:
    """Finds the intent of a question; far faster than the 50 ms of ``intent_budget_ms``."""

    def __init__(self, model: ClassifierModel, *, confidence_min: float) -> None:
        self._model = model
        self._confidence_min = confidence_min
        self._column = {ngram: column for column, ngram in enumerate(model.ngrams)}

    @classmethod
    def from_data(cls, settings: ClassifierSettings) -> IntentClassifier:
        """With the trained model of the data folder; raises ``DataError``."""
        model = ClassifierModel.load(classifier_path(settings))
        return cls(model, confidence_min=settings.intent_confidence_min)

    def classify(self, masked: str) -> tuple[Intent, float]:
        """The most probable intent and its probability, for a text whose titles are masked (``MarkedText.masked``).

        ``Intent.DEFAULT`` where that is below ``confidence_min``.
        """
        columns, tf_idf = self._features(ORDER_NUMBER.sub("ORDER", masked[:CLASSIFIED_CHARS]))
        intents = probabilities(tf_idf[None], self._model.weights[columns], self._model.intercepts)[0]
        best = intents.argmax()
        confidence = float(intents[best])
        return (Intent.DEFAULT if confidence < self._confidence_min else Intent(self._model.intents[best])), confidence

    def _features(self, text: str) -> tuple[list[int], npt.NDArray[np.float64]]:
        """The columns of the text's known n-grams and their tf-idf weights, as a unit vector."""
        counts = Counter(ngram for ngram in ngrams_within_words(text, NGRAM_SIZES) if ngram in self._column)
        columns = [self._column[ngram] for ngram in counts]
        tf_idf = (1 + np.log(np.array(list(counts.values()), np.float64))) * self._model.idf[columns]
        length = np.linalg.norm(tf_idf)
        return columns, np.asarray(tf_idf / length if length else tf_idf)


def classifier_path(settings: DataSettings) -> Path:
    """The file of the trained model."""
    return settings.data_dir / "classifier.npz"


def training_text(phrasing: Phrasing) -> str:
    """A template as the classifier sees questions: titles and order numbers masked, other slots filled with an example."""
    return _SLOT.sub(lambda slot: _SLOT_WORDS[slot[1]], phrasing.template)


def training_fingerprint(phrasings: Sequence[Phrasing]) -> str:
    """Changes with everything that the trained model depends on."""
    rows = [(p.intent, training_text(p)) for p in phrasings if p.split == "train"]
    content = json.dumps([list(NGRAM_SIZES), rows], ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
