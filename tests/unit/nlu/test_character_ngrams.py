"""Letters and regression beside scikit-learn, whose results they must have without its import."""

from __future__ import annotations

import sys
from subprocess import run

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from mangalib.domain.catalogue import Catalogue
from mangalib.domain.intents import Intent
from mangalib.domain.query_templates import load_phrasings
from mangalib.nlu import logistic_regression as regression
from mangalib.nlu.character_ngrams import hashed, ngrams_within_words
from mangalib.nlu.classifier import IntentClassifier
from mangalib.settings import load_settings

TEXTS = st.lists(st.text(alphabet="aB9 \t\n.-é日本のマİ", min_size=0, max_size=30), min_size=1, max_size=5)


@given(TEXTS)
def test_groups_of_words_are_those_of_scikit_learn(texts: list[str]) -> None:
    analyse = CountVectorizer(analyzer="char_wb", ngram_range=(1, 5)).build_analyzer()
    for text in texts:
        assert sorted(ngrams_within_words(text, range(1, 6))) == sorted(analyse(text))


@given(TEXTS)
def test_hashed_letters_are_those_of_scikit_learn(texts: list[str]) -> None:
    theirs = HashingVectorizer(analyzer="char", ngram_range=(1, 3), n_features=256, norm="l2").transform(texts)
    np.testing.assert_allclose(hashed(texts, range(1, 4), 256), theirs.toarray(), atol=1e-6)


@pytest.mark.parametrize(("dimensions", "kinds"), [(4, 2), (4, 3), (90, 3)])
def test_the_regression_is_that_of_scikit_learn(dimensions: int, kinds: int) -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(60, dimensions))
    classes = (features[:, :kinds] + rng.normal(size=(60, kinds))).argmax(axis=1)
    found = regression.probabilities(features, *regression.fit(features, classes, penalty=0.5 if kinds > 2 else 1.0))
    theirs = LogisticRegression(C=2.0, max_iter=2000, tol=1e-8).fit(features, classes).predict_proba(features)
    np.testing.assert_allclose(found, theirs, atol=2e-3)


def test_the_classifier_is_what_scikit_learn_would_make_of_it() -> None:
    data = load_settings().data_dir
    phrasings = [one for one in load_phrasings(data / "query_templates.csv") if "{" not in one.template]
    ours = IntentClassifier(phrasings, Catalogue.load(data / "catalogue.csv"), confidence_min=0.0)
    usual = make_pipeline(
        TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 5), sublinear_tf=True),
        LogisticRegression(C=20.0, max_iter=400),
    )
    usual.fit([phrasing.template for phrasing in phrasings], [phrasing.intent.value for phrasing in phrasings])
    asked = [
        "where is my parcel",
        "good morning",
        "something like it but darker",
        "返品できますか",
        "how much is it",
        "qwerty",
    ]
    assert [ours.classify(text) for text in asked] == [Intent(found) for found in usual.predict(asked)]


def test_a_server_starts_without_scikit_learn() -> None:
    loaded = run(
        [sys.executable, "-c", "import mangalib.server, sys; print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert not {"sklearn", "scipy.stats", "plotly", "jupyter_client"} & set(loaded)
