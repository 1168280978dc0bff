"""How often the semantic cache answers, and how often wrongly: on questions with known answers, beside a cosine threshold."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from mangalib.domain import Catalogue
from mangalib.errors import DataError
from mangalib.nlu import MeaningReader, Recogniser, embed, embed_phrasing, lowest_threshold
from mangalib.settings import Settings

_COLUMNS = ("part", "text", "answer")


class Mistake(msgspec.Struct, frozen=True):
    """A question that was answered with another question's answer."""

    text: str
    given: str
    expected: str
    probability: float


class Rates(msgspec.Struct, frozen=True):
    """Shares: ``hit_rate`` of the questions asked, and ``false_hit_rate`` of those that were answered."""

    hit_rate: float
    false_hit_rate: float
    hits: int
    false_hits: int


class Accuracy(msgspec.Struct, frozen=True):
    """The whole look-up (exact, then verified similarity), and a cosine threshold tuned on the stored questions to the
    same bound.
    """

    hit_rate: float
    false_hit_rate: float
    stored: int
    asked: int
    exact_hits: int
    bound: float
    cosine: Rates
    cosine_threshold: float
    mistakes: list[Mistake]
    curve: list[tuple[float, float]]


class LabelledQuestion(msgspec.Struct, frozen=True):
    """A row of the file."""

    part: str
    text: str
    answer: str


def read_questions(path: Path) -> tuple[list[LabelledQuestion], list[LabelledQuestion]]:
    """Stored and asked questions; raises ``DataError`` naming the line, the column and what was expected."""
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
        raise DataError(f"{path}: {len(stored)} questions stored and {len(asked)} asked; expected some of each")
    return stored, asked


def _checked(path: Path, rows: csv.DictReader[str]) -> Iterator[LabelledQuestion]:
    for line, row in enumerate(rows, start=2):
        if row["part"] not in {"stored", "asked"}:
            raise DataError(f"{path}, line {line}: part={row['part']!r}; expected stored or asked")
        if not (row["text"] or "").strip() or not (row["answer"] or "").strip():
            raise DataError(f"{path}, line {line}: text or answer is empty")
        yield LabelledQuestion(row["part"], row["text"], row["answer"])


def measure(stored: list[LabelledQuestion], asked: list[LabelledQuestion], settings: Settings) -> Accuracy:
    """Store one part, learn from it alone, and ask the other."""
    reader = MeaningReader(Catalogue.load(settings.data_dir / "catalogue.csv"))
    recogniser = Recogniser(settings)
    meanings = [reader.read(row.text) for row in stored]
    recogniser.add([(row.text, meaning, row.answer) for row, meaning in zip(stored, meanings, strict=True)])
    recogniser.learn()
    kept = {(row.answer, meaning.values) for row, meaning in zip(stored, meanings, strict=True)}
    rows: list[tuple[bool, str | None, float]] = []
    for row in asked:
        meaning = reader.read(row.text)
        found = recogniser.recognise(row.text, meaning, embed_phrasing(meaning.phrasing, meaning.language))
        hit = found is not None and (found.exact or (found.accepted and (found.label, meaning.values) in kept))
        rows.append(
            (bool(found and found.exact), found.label if found and hit else None, found.probability if found else 0.0)
        )
    hits = [(row, label, p) for row, (_, label, p) in zip(asked, rows, strict=True) if label is not None]
    wrong = [Mistake(row.text, label, row.answer, round(p, 4)) for row, label, p in hits if label != row.answer]
    threshold, cosine, curve = _cosine(stored, asked, settings)
    return Accuracy(
        hit_rate=round(len(hits) / len(asked), 4),
        false_hit_rate=round(len(wrong) / max(1, len(hits)), 4),
        stored=len(stored),
        asked=len(asked),
        exact_hits=sum(exact for exact, _, _ in rows),
        bound=settings.cache_false_hits_max,
        cosine=cosine,
        cosine_threshold=round(threshold, 4),
        mistakes=wrong,
        curve=curve,
    )


def _cosine(
    stored: list[LabelledQuestion], asked: list[LabelledQuestion], settings: Settings
) -> tuple[float, Rates, list[tuple[float, float]]]:
    """The usual rule: the nearest stored question's answer, if its cosine is above a threshold; and that rule's curve."""
    vectors = embed([row.text for row in stored], "en")
    answers = np.array([row.answer for row in stored])
    own, own_right = _nearest(vectors, answers, vectors, answers, leave_out=True)
    threshold = lowest_threshold(own, own_right, settings.cache_false_hits_max)
    score, right = _nearest(
        embed([row.text for row in asked], "en"), np.array([row.answer for row in asked]), vectors, answers
    )
    curve = []
    for at in np.quantile(score, np.linspace(0.99, 0, 34)):
        hit = score >= at
        curve.append((round(float(hit.mean()), 4), round(float((~right)[hit].mean()), 4)))
    hit = score >= threshold
    false = int((~right)[hit].sum())
    rates = Rates(round(float(hit.mean()), 4), round(false / max(1, int(hit.sum())), 4), int(hit.sum()), false)
    return threshold, rates, curve


def _nearest(
    vectors: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    answers: np.ndarray[tuple[int, ...], np.dtype[np.str_]],
    among: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    theirs: np.ndarray[tuple[int, ...], np.dtype[np.str_]],
    *,
    leave_out: bool = False,
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.float64]], np.ndarray[tuple[int, ...], np.dtype[np.bool_]]]:
    scores, right = np.empty(len(vectors)), np.empty(len(vectors), bool)
    for start in range(0, len(vectors), 1000):
        part = slice(start, start + 1000)
        similar = vectors[part] @ among.T
        if leave_out:
            similar[np.arange(len(similar)), np.arange(start, start + len(similar))] = -1
        best = similar.argmax(axis=1)
        scores[part], right[part] = similar[np.arange(len(best)), best], theirs[best] == answers[part]
    return scores, right
