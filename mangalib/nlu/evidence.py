"""Evidence that a question asks for a certain answer, and how much of it is enough.

The neighbours vote, each with exp((similarity - the nearest one's) / 0.05). A logistic regression over the vote, the
similarities and how far the runner-up is behind gives the probability that the vote is right; it is learned from the
stored questions themselves, each asked of the others (cross-validation). The threshold is the lowest at which, of the
questions answered, no more than the bound were answered wrongly. An answer whose own questions were confused more often
than that gets a higher one; what is learned later from feedback counts like the rest.

Beyond that, a question must be typical for the answer: as near to its questions as nine in ten of those are to each other
(a conformal test: Vovk, Gammerman and Shafer 2005), and at least two stored questions of the same shape must support it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from mangalib.nlu.embedding import Vectors
from mangalib.nlu.logistic_regression import Floats, fit
from mangalib.settings import Settings

Ints = npt.NDArray[np.int32]

TEMPERATURE = 0.05
_FOLDS = 5
# Of two opposite weights twice, which is once of their difference.
_PENALTY = 2.0
_TYPICAL_OF = 3
# How many questions of an answer weigh as much as the bound itself, which is what is believed before any is seen.
_PRIOR_QUESTIONS = 100.0
_TOLERATED = 2.0


class NeighbourVote(msgspec.Struct, frozen=True):
    """What the neighbours say: the answer's label, how many of the question's shape support it, and what that is worth."""

    label: int
    support: int
    typical: float
    features: tuple[float, ...]


def weigh_neighbours(
    vector: Vectors, similar: npt.NDArray[np.float32], labels: Ints, shapes: Ints, shape: int, centres: Vectors
) -> NeighbourVote | None:
    """Weigh the neighbours of ``vector``, the nearest first; ``None`` when there are none.

    ``centres``, of shape ``(labels, 256)``, holds the sum of each label's stored vectors.
    """
    if not len(similar):
        return None
    weights = np.exp((similar - similar[0]) / TEMPERATURE, dtype=np.float64)
    kinds, position = np.unique(labels, return_inverse=True)
    votes = np.bincount(position, weights=weights)
    winner = int(votes.argmax())
    vote = float(votes[winner] / votes.sum())
    own = position == winner
    nearest_own = similar[own][:_TYPICAL_OF]
    others = similar[~own]
    behind = float(others[0]) if len(others) else float(similar[-1])
    near = centres[kinds]
    to_centre = near @ vector / (np.linalg.norm(near, axis=1) + 1e-9)
    to_own = float(to_centre[winner])
    to_other = float(np.delete(to_centre, winner).max()) if len(kinds) > 1 else 0.0
    features = (
        float(np.log((vote + 1e-3) / (1 - vote + 1e-3))),
        float(similar[0]),
        float(nearest_own.mean()),
        float(own[:5].mean()),
        float(own[:10].mean()),
        float(own.mean()),
        to_own,
        to_own - to_other,
        float(nearest_own[0]) - behind,
    )
    support = int((own & (shapes == shape)).sum())
    return NeighbourVote(int(kinds[winner]), support, float(nearest_own.mean()), features)


class ObservedHit(msgspec.Struct, frozen=True):
    """That a question was answered, or would have been, with ``label`` at ``probability``, rightly or not."""

    label: str
    probability: float
    right: bool


class EvidenceModel(msgspec.Struct):
    """Learned weights and thresholds; without any, no question is answered by similarity.

    ``thresholds`` and ``typical`` are by label; ``floor`` is the threshold of a label that is not among them.
    """

    mean: list[float] = []
    scale: list[float] = []
    weights: list[float] = []
    intercept: float = 0.0
    floor: float = 2.0
    thresholds: dict[str, float] = {}
    typical: dict[str, float] = {}
    outcomes: list[ObservedHit] = []

    def probability(self, judgement: NeighbourVote) -> float:
        """That the neighbours' answer is the right one."""
        if not self.weights:
            return 0.0
        z = self.intercept
        for value, mean, scale, weight in zip(judgement.features, self.mean, self.scale, self.weights, strict=True):
            z += weight * (value - mean) / scale
        return float(1 / (1 + np.exp(-z)))

    def accepts(self, label: str, judgement: NeighbourVote, settings: Settings) -> bool:
        """Whether the evidence is enough to answer."""
        return (
            judgement.support >= settings.cache_support_min
            and judgement.typical >= self.typical.get(label, 2.0)
            and self.probability(judgement) >= self.thresholds.get(label, self.floor)
        )

    def record_feedback(self, label: str, probability: float, right: bool, bound: float) -> EvidenceModel:
        """With feedback on one answer; only that answer's threshold moves."""
        outcomes = [*self.outcomes, ObservedHit(label, probability, right)]
        own = [outcome for outcome in outcomes if outcome.label == label]
        thresholds = {**self.thresholds, label: _threshold_of(own, self.floor, bound)}
        return msgspec.structs.replace(self, outcomes=outcomes, thresholds=thresholds)


def learn_evidence(
    vectors: Vectors, labels: Ints, shapes: Ints, names: Sequence[str], settings: Settings, *, seed: int = 0
) -> EvidenceModel:
    """From the stored questions of one language, ``n`` of them: vectors ``(n, 256)``, labels and shapes ``(n,)``.

    Where there are too few to show that the bound holds, the model answers nothing.
    """
    rng = np.random.default_rng(seed)
    if len(labels) > settings.cache_learn_questions:
        chosen = rng.choice(len(labels), settings.cache_learn_questions, replace=False)
        vectors, labels, shapes = vectors[chosen], labels[chosen], shapes[chosen]
    judgements = _cross_validated(vectors, labels, shapes, settings.cache_neighbours, rng)
    right = np.array([judgement.label == label for judgement, label in zip(judgements, labels, strict=True)])
    if not len(right) or right.all() or not right.any():
        return EvidenceModel()
    features = np.array([judgement.features for judgement in judgements])
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-9
    weights, intercepts = fit((features - mean) / scale, right.astype(np.intp), penalty=_PENALTY, iterations=1000)
    typical = _typical(vectors, labels, names, settings.cache_typicality_min)
    model = EvidenceModel(
        mean.tolist(),
        scale.tolist(),
        (weights[:, 1] - weights[:, 0]).tolist(),
        float(intercepts[1] - intercepts[0]),
        typical=typical,
    )
    able = [
        (names[judgement.label], model.probability(judgement), bool(ok))
        for judgement, ok in zip(judgements, right, strict=True)
        if judgement.support >= settings.cache_support_min
        and judgement.typical >= typical.get(names[judgement.label], 2.0)
    ]
    model.outcomes = [ObservedHit(*row) for row in able]
    model.floor = lowest_threshold(
        np.array([row[1] for row in able]), np.array([row[2] for row in able], bool), settings.cache_false_hits_max
    )
    by_label: dict[str, list[ObservedHit]] = {}
    for outcome in model.outcomes:
        by_label.setdefault(outcome.label, []).append(outcome)
    model.thresholds = {
        label: _threshold_of(own, model.floor, settings.cache_false_hits_max) for label, own in by_label.items()
    }
    model.outcomes = [outcome for outcome in model.outcomes if outcome.probability >= model.floor]
    return model


def lowest_threshold(scores: Floats, right: npt.NDArray[np.bool_], bound: float) -> float:
    """The lowest score at and above which (wrong + 1) / (all + 1) is at most ``bound``; 2 where there is none."""
    order = np.argsort(-scores, kind="stable")
    wrong = np.cumsum(~right[order])
    holds = np.flatnonzero((wrong + 1) / (np.arange(len(order)) + 2) <= bound)
    return float(scores[order][holds[-1]]) if len(holds) else 2.0


def _threshold_of(outcomes: list[ObservedHit], floor: float, bound: float) -> float:
    """Not below ``floor``, and above where an answer was wrong clearly more often than the bound allows."""
    asked = sorted((o for o in outcomes if o.probability >= floor), key=lambda o: -o.probability)
    if not asked:
        return floor
    lowest, wrong = 2.0, 0
    for count, (outcome, following) in enumerate(zip(asked, [*asked[1:], None], strict=True), start=1):
        wrong += not outcome.right
        tied = following is not None and following.probability == outcome.probability
        rate = (wrong + bound * _PRIOR_QUESTIONS) / (count + _PRIOR_QUESTIONS)
        if not tied and rate <= _TOLERATED * bound:
            lowest = outcome.probability
    return lowest if lowest > asked[-1].probability else floor


def _cross_validated(
    vectors: Vectors, labels: Ints, shapes: Ints, neighbours: int, rng: np.random.Generator
) -> list[NeighbourVote]:
    fold = rng.permutation(len(labels)) % _FOLDS
    found: list[NeighbourVote | None] = [None] * len(labels)
    for number in range(_FOLDS):
        asked, stored = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        if not len(stored):
            continue
        centres = np.zeros((labels.max() + 1, vectors.shape[1]), np.float32)
        np.add.at(centres, labels[stored], vectors[stored])
        for start in range(0, len(asked), 1000):
            some = asked[start : start + 1000]
            similar = vectors[some] @ vectors[stored].T
            count = min(neighbours, len(stored))
            near = np.argpartition(-similar, count - 1, axis=1)[:, :count]
            for row, question in enumerate(some):
                order = near[row][np.argsort(-similar[row, near[row]], kind="stable")]
                among = stored[order]
                found[question] = weigh_neighbours(
                    vectors[question], similar[row, order], labels[among], shapes[among], shapes[question], centres
                )
    return [judgement for judgement in found if judgement is not None]


def _typical(vectors: Vectors, labels: Ints, names: Sequence[str], share: float) -> dict[str, float]:
    """For each answer, how near to its questions all but ``share`` of them are, each compared with the others."""
    typical = {}
    for label in np.unique(labels):
        own = vectors[labels == label][:2000]
        if len(own) < 2:
            continue
        similar = own @ own.T
        np.fill_diagonal(similar, -1)
        nearest = np.sort(similar, axis=1)[:, -min(_TYPICAL_OF, len(own) - 1) :].mean(axis=1)
        typical[names[label]] = float(np.quantile(nearest, share))
    return typical
