"""Measures hit rate and false-hit rate of the semantic cache on labelled questions, beside a plain cosine threshold."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from mangalib.domain import Catalogue
from mangalib.errors import DataError
from mangalib.nlu import MeaningReader, Recogniser, embed, embed_phrasing, lowest_threshold
from mangalib.settings import CacheSettings

_COLUMNS = ("part", "text", "answer")


class Hit(msgspec.Struct, frozen=True):
    """A question that was answered: the label of the answer given, the expected one, and the probability of being right."""

    text: str
    given: str
    expected: str
    probability: float


class Rates(msgspec.Struct, frozen=True):
    """``hit_rate`` is a share of the questions asked, ``false_hit_rate`` of those that were answered."""

    hit_rate: float
    false_hit_rate: float
    hits: int
    false_hits: int


class Accuracy(msgspec.Struct, frozen=True):
    """The rates of the whole look-up, exact and by similarity, and of a cosine threshold tuned to the same ``bound``.

    ``mistakes`` are the hits with a wrong answer. ``curve`` holds hit rate and false-hit rate of other cosine thresholds.
    """

    hit_rate: float
    false_hit_rate: float
    stored: int
    asked: int
    exact_hits: int
    bound: float
    cosine: Rates
    cosine_threshold: float
    mistakes: list[Hit]
    curve: list[tuple[float, float]]


class LabelledQuestion(msgspec.Struct, frozen=True):
    """A row of the file: ``part`` is ``stored`` or ``asked``, ``answer`` the label of the right answer."""

    part: str
    text: str
    answer: str


def read_labelled_questions(path: Path) -> tuple[list[LabelledQuestion], list[LabelledQuestion]]:
    """Stored and asked questions of a CSV file; raises ``DataError`` naming the line, the value and what was expected."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            missing = [name for name in _COLUMNS if name not in (rows.fieldnames or [])]
            if missing:
                raise DataError(f"{path}: no column {', '.join(missing)}; expected {', '.join(_COLUMNS)}")
            found = list(_checked(path, rows))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: {error}") from error
    stored = [row for row in found if row.part == "stored"]
    asked = [row for row in found if row.part == "asked"]
    if not stored or not asked:
        raise DataError(f"{path}: {len(stored)} questions stored and {len(asked)} asked; expected at least one of each")
    return stored, asked


def _checked(path: Path, rows: csv.DictReader[str]) -> Iterator[LabelledQuestion]:
    for line, row in enumerate(rows, start=2):
        if row["part"] not in {"stored", "asked"}:
            raise DataError(f"{path}, line {line}: part={row['part']!r}; expected stored or asked")
        if not (row["text"] or "").strip() or not (row["answer"] or "").strip():
            raise DataError(f"{path}, line {line}: text or answer is empty; expected both")
        yield LabelledQuestion(row["part"], row["text"], row["answer"])


def measure_accuracy(
    stored: list[LabelledQuestion], asked: list[LabelledQuestion], settings: CacheSettings
) -> Accuracy:
    """Store one part, learn from it alone, and ask the other."""
    hits, exact_hits = _cache_hits(stored, asked, settings)
    wrong = [hit for hit in hits if hit.given != hit.expected]
    threshold, cosine, curve = _cosine_rule(stored, asked, settings.cache_false_hits_max)
    return Accuracy(
        hit_rate=round(len(hits) / len(asked), 4),
        false_hit_rate=round(len(wrong) / max(1, len(hits)), 4),
        stored=len(stored),
        asked=len(asked),
        exact_hits=exact_hits,
        bound=settings.cache_false_hits_max,
        cosine=cosine,
        cosine_threshold=round(threshold, 4),
        mistakes=wrong,
        curve=curve,
    )


def _cache_hits(
    stored: list[LabelledQuestion], asked: list[LabelledQuestion], settings: CacheSettings
) -> tuple[list[Hit], int]:
    """The questions that the cache answers, and how many of them by an exact match."""
    reader = MeaningReader(Catalogue.load(settings.data_dir / "catalogue.csv"))
    recogniser = Recogniser(settings)
    meanings = [reader.read(row.text) for row in stored]
    recogniser.add([(row.text, meaning, row.answer) for row, meaning in zip(stored, meanings, strict=True)])
    recogniser.learn()
    answered = {(row.answer, meaning.values) for row, meaning in zip(stored, meanings, strict=True)}
    hits, exact_hits = [], 0
    for row in asked:
        meaning = reader.read(row.text)
        found = recogniser.recognise(row.text, meaning, embed_phrasing(meaning.phrasing, meaning.language))
        if found is None or not found.accepted:
            continue
        if found.exact or (found.label, meaning.values) in answered:
            hits.append(Hit(row.text, found.label, row.answer, round(found.probability, 4)))
            exact_hits += found.exact
    return hits, exact_hits


def _cosine_rule(
    stored: list[LabelledQuestion], asked: list[LabelledQuestion], bound: float
) -> tuple[float, Rates, list[tuple[float, float]]]:
    """The nearest stored question's answer if its cosine reaches a threshold: that threshold, its rates, and the curve."""
    vectors = embed([row.text for row in stored], "en")
    answers = np.array([row.answer for row in stored])
    stored_scores, stored_right = _nearest(vectors, answers, vectors, answers, leave_one_out=True)
    threshold = lowest_threshold(stored_scores, stored_right, bound)
    asked_vectors = embed([row.text for row in asked], "en")
    scores, right = _nearest(asked_vectors, np.array([row.answer for row in asked]), vectors, answers)
    curve = []
    for cut_off in np.quantile(scores, np.linspace(0.99, 0, 34)):
        hit = scores >= cut_off
        curve.append((round(float(hit.mean()), 4), round(float((~right)[hit].mean()), 4)))
    hit = scores >= threshold
    false_hits = int((~right)[hit].sum())
    hit_count = int(hit.sum())
    rates = Rates(round(float(hit.mean()), 4), round(false_hits / max(1, hit_count), 4), hit_count, false_hits)
    return threshold, rates, curve


def _nearest(
    vectors: npt.NDArray[np.float32],
    answers: npt.NDArray[np.str_],
    stored_vectors: npt.NDArray[np.float32],
    stored_answers: npt.NDArray[np.str_],
    *,
    leave_one_out: bool = False,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """The cosine of each question's nearest stored question, and whether that one's answer is right."""
    scores, right = np.empty(len(vectors)), np.empty(len(vectors), bool)
    for start in range(0, len(vectors), 1000):
        part = slice(start, start + 1000)
        similar = vectors[part] @ stored_vectors.T
        if leave_one_out:
            similar[np.arange(len(similar)), np.arange(start, start + len(similar))] = -1
        best = similar.argmax(axis=1)
        scores[part] = similar[np.arange(len(best)), best]
        right[part] = stored_answers[best] == answers[part]
    return scores, right
