"""Train the intent classifier on the query templates and write ``data/classifier.npz``; run it when the templates change.

    .venv/bin/python -m tools.train_classifier

Multinomial logistic regression on tf-idf weights of character n-grams. The orchestrator loads the file and needs no
scikit-learn.
"""

from __future__ import annotations

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from mangalib.domain import load_phrasings
from mangalib.nlu.classifier import (
    NGRAM_SIZES,
    ClassifierModel,
    classifier_path,
    training_fingerprint,
    training_text,
)
from mangalib.settings import DataSettings

# scikit-learn's C is the inverse of the L2 penalty.
_PENALTY = 0.05


def train(settings: DataSettings) -> ClassifierModel:
    """The model of the ``train`` split of ``query_templates.csv``."""
    phrasings = load_phrasings(settings.data_dir / "query_templates.csv")
    train_split = [phrasing for phrasing in phrasings if phrasing.split == "train"]
    vectorizer = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(NGRAM_SIZES.start, NGRAM_SIZES.stop - 1), sublinear_tf=True
    )
    features = vectorizer.fit_transform([training_text(phrasing) for phrasing in train_split])
    regression = LogisticRegression(C=1 / _PENALTY, max_iter=2000, tol=1e-6)
    regression.fit(features, [phrasing.intent.value for phrasing in train_split])
    return ClassifierModel(
        ngrams=vectorizer.get_feature_names_out().tolist(),
        idf=vectorizer.idf_.astype(np.float32),
        intents=regression.classes_.tolist(),
        weights=regression.coef_.T.astype(np.float32),
        intercepts=regression.intercept_.astype(np.float32),
        fingerprint=training_fingerprint(phrasings),
    )


def main() -> None:
    """Train and write the file."""
    settings = DataSettings()
    path = classifier_path(settings)
    train(settings).save(path)
    print(f"{path}: {path.stat().st_size / 1024:.0f} kB")


if __name__ == "__main__":
    main()
