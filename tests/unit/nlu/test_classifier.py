"""The intent classifier: its file is current, complete and read with clear errors, and its intents are scikit-learn's."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from mangalib.domain import Catalogue, Intent, load_phrasings
from mangalib.errors import DataError
from mangalib.nlu.classifier import (
    ClassifierModel,
    IntentClassifier,
    classifier_path,
    training_fingerprint,
    training_text,
)
from mangalib.settings import load_settings

SETTINGS = load_settings()
CATALOGUE = Catalogue.load(SETTINGS.data_dir / "catalogue.csv")
PHRASINGS = load_phrasings(SETTINGS.data_dir / "query_templates.csv")


def test_the_classifier_is_trained_on_the_templates_as_they_are() -> None:
    model = ClassifierModel.load(classifier_path(SETTINGS))
    assert model.fingerprint == training_fingerprint(PHRASINGS), "data/classifier.npz is stale: run make train"


def test_the_fingerprint_changes_with_the_training_split_only() -> None:
    assert training_fingerprint([*PHRASINGS, dataclasses.replace(PHRASINGS[0], split="held_out")]) == (
        training_fingerprint(PHRASINGS)
    )
    assert training_fingerprint([*PHRASINGS, dataclasses.replace(PHRASINGS[0], split="train", template="new")]) != (
        training_fingerprint(PHRASINGS)
    )


def test_intents_are_those_of_scikit_learn() -> None:
    train = [phrasing for phrasing in PHRASINGS if phrasing.split == "train"]
    pipeline = make_pipeline(
        TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 5), sublinear_tf=True),
        LogisticRegression(C=20.0, max_iter=400),
    )
    pipeline.fit([training_text(phrasing) for phrasing in train], [phrasing.intent.value for phrasing in train])
    ours = IntentClassifier(ClassifierModel.load(classifier_path(SETTINGS)), confidence_min=0.0)
    questions = [
        "where is my parcel",
        "good morning",
        "something like it but darker",
        "返品できますか",
        "how much is it",
        "qwerty",
        *(phrasing.template for phrasing in PHRASINGS if "{" not in phrasing.template),
    ]
    assert [ours.classify(text)[0] for text in questions] == [Intent(found) for found in pipeline.predict(questions)]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: path.write_bytes(b"not an archive"), "classifier.npz"),
        (lambda path: path.write_bytes(path.read_bytes()[:2000]), "classifier.npz"),
        (lambda path: np.savez_compressed(path, ngrams=["a"]), "idf"),
        (lambda path: _with_fewer_weights(path), r"weights of shape \(\d+, 7\)"),
    ],
)
def test_a_missing_or_broken_file_names_the_path_and_the_command(damage: object, message: str, tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path)
    path = classifier_path(settings)
    path.write_bytes(classifier_path(SETTINGS).read_bytes())
    damage(path)  # type: ignore[operator]
    with pytest.raises(DataError, match=message) as raised:
        IntentClassifier.from_data(settings)
    assert str(path) in str(raised.value)
    assert "tools.train_classifier" in str(raised.value)


def _with_fewer_weights(path: Path) -> None:
    model = ClassifierModel.load(path)
    dataclasses.replace(model, weights=model.weights[:, 1:]).save(path)


def held_out_questions() -> list[tuple[Intent, str]]:
    rng = random.Random(3)
    questions = []
    for phrasing in PHRASINGS:
        if phrasing.split == "held_out":
            one, other = rng.sample(CATALOGUE.items, 2)
            slots = {"title": one.title, "title_ja": one.title_ja, "title2": other.title, "title2_ja": other.title_ja}
            text = phrasing.template.format(**slots, genre="horror", author=one.author.split(",")[0], order="MA-10023")
            questions.append((phrasing.intent, text))
    return questions


def test_held_out_phrasings_get_their_intent() -> None:
    """The second notebook shows the confusion matrix; these are its lower limits."""
    classifier = IntentClassifier.from_data(SETTINGS)
    questions = held_out_questions()
    confusion = Counter(
        (intent, classifier.classify(CATALOGUE.mark_titles(text).masked)[0]) for intent, text in questions
    )
    right = sum(count for (intent, found), count in confusion.items() if intent is found)
    wrong = sum(count for (intent, found), count in confusion.items() if found not in {intent, Intent.DEFAULT})
    assert right / len(questions) >= 0.85
    assert wrong / len(questions) <= 0.12, "uncertain is better than wrong"


def test_noise_is_an_uncertain_question() -> None:
    assert IntentClassifier.from_data(SETTINGS).classify("qwx zzkv 9")[0] is Intent.DEFAULT
