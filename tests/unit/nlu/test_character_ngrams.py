"""Character n-grams and logistic regression give scikit-learn's results without its import."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer
from sklearn.linear_model import LogisticRegression

from mangalib.nlu import logistic_regression as regression
from mangalib.nlu.character_ngrams import character_ngrams, hashed_ngrams, ngrams_within_words

TEXTS = st.lists(st.text(alphabet="aB9 \t\n.-é日本のマİ", min_size=0, max_size=30), min_size=1, max_size=5)


@given(TEXTS)
def test_ngrams_within_words_are_those_of_scikit_learn(texts: list[str]) -> None:
    analyse = CountVectorizer(analyzer="char_wb", ngram_range=(1, 5)).build_analyzer()
    for text in texts:
        assert sorted(ngrams_within_words(text, range(1, 6))) == sorted(analyse(text))


@given(TEXTS)
def test_hashed_ngrams_are_those_of_scikit_learn(texts: list[str]) -> None:
    expected = HashingVectorizer(analyzer="char", ngram_range=(1, 3), n_features=256, norm="l2").transform(texts)
    found = hashed_ngrams([character_ngrams(text, range(1, 4)) for text in texts], 256)
    np.testing.assert_allclose(found, expected.toarray(), atol=1e-12)


@given(TEXTS)
def test_the_embeddings_of_the_stand_in_are_those_of_scikit_learn(texts: list[str]) -> None:
    expected = HashingVectorizer(analyzer="char_wb", ngram_range=(2, 4), n_features=512).transform(texts)
    found = hashed_ngrams([ngrams_within_words(text, range(2, 5)) for text in texts], 512)
    np.testing.assert_allclose(found, expected.toarray(), atol=1e-12)


@pytest.mark.parametrize(("dimensions", "classes"), [(4, 2), (4, 3), (90, 3)])
def test_the_regression_is_that_of_scikit_learn(dimensions: int, classes: int) -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(60, dimensions))
    truth = (features[:, :classes] + rng.normal(size=(60, classes))).argmax(axis=1)
    found = regression.probabilities(features, *regression.fit(features, truth, penalty=0.5 if classes > 2 else 1.0))
    expected = LogisticRegression(C=2.0, max_iter=2000, tol=1e-8).fit(features, truth).predict_proba(features)
    np.testing.assert_allclose(found, expected, atol=2e-3)
