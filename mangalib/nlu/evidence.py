"""Whether the stored questions nearest to a new one are enough evidence to give it their answer.

The neighbours vote for their answers, each with weight exp((its similarity - the nearest one's) / 0.05). A logistic
regression on the vote, the similarities and the margin to the runner-up gives the probability that the winning answer is
right. It is fitted to the stored questions themselves by cross-validation. The threshold is the lowest one at which at
most ``cache_false_hits_max`` of the answered questions were answered wrongly. An answer whose own questions were confused
more often than that gets a higher threshold; later feedback counts like the stored questions do.

The question must also be typical of the answer, as near to its stored questions as nine in ten of those are to each other
(a conformal test: Vovk, Gammerman and Shafer 2005), and at least ``cache_support_min`` stored questions of the same shape
must support the answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from mangalib.nlu.embedding import Vectors
from mangalib.nlu.logistic_regression import Floats, fit
from mangalib.settings import CacheSettings

Ints = npt.NDArray[np.int32]

_TEMPERATURE = 0.05
_FOLDS = 5
# The two classes have opposite weights, so this equals a penalty of 1 on their difference.
_PENALTY = 2.0
_TYPICAL_OF = 3
# The prior on an answer's error rate: as if this many of its questions had been seen, wrong at the rate of the bound.
_PRIOR_QUESTIONS = 100.0
_TOLERATED = 2.0


class NeighbourVote(msgspec.Struct, frozen=True):
    """The neighbours' answer: its label, how many neighbours of the question's shape support it, and the features of the model.

    ``typical`` is the mean similarity of the question to the answer's nearest stored questions.
    """

    label: int
    support: int
    typical: float
    features: tuple[float, ...]


def weigh_neighbours(
    vector: Vectors, similar: npt.NDArray[np.float32], labels: Ints, shapes: Ints, shape: int, centres: Vectors
) -> NeighbourVote | None:
    """The vote of the neighbours of ``vector``, which are given nearest first; ``None`` when there are none.

    ``centres``, of shape ``(labels, 256)``, holds the sum of each label's stored vectors.
    """
    if not len(similar):
        return None
    weights = np.exp((similar - similar[0]) / _TEMPERATURE, dtype=np.float64)
    voted, position = np.unique(labels, return_inverse=True)
    votes = np.bincount(position, weights=weights)
    winner = int(votes.argmax())
    vote = float(votes[winner] / votes.sum())
    own = position == winner
    nearest_own = similar[own][:_TYPICAL_OF]
    others = similar[~own]
    behind = float(others[0]) if len(others) else float(similar[-1])
    near = centres[voted]
    to_centre = near @ vector / (np.linalg.norm(near, axis=1) + 1e-9)
    to_own = float(to_centre[winner])
    to_other = float(np.delete(to_centre, winner).max()) if len(voted) > 1 else 0.0
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
    return NeighbourVote(int(voted[winner]), support, float(nearest_own.mean()), features)


class ObservedHit(msgspec.Struct, frozen=True):
    """A question that was, or would have been, answered with ``label`` at ``probability``, and whether that was right."""

    label: str
    probability: float
    right: bool


class EvidenceModel(msgspec.Struct):
    """Fitted weights and thresholds; an empty model accepts nothing.

    ``thresholds`` and ``typical`` are by label; ``floor`` is the threshold of any other label. Similarities and
    probabilities are at most 1, so a threshold of 2 accepts nothing.
    """

    mean: list[float] = []
    scale: list[float] = []
    weights: list[float] = []
    intercept: float = 0.0
    floor: float = 2.0
    thresholds: dict[str, float] = {}
    typical: dict[str, float] = {}
    outcomes: list[ObservedHit] = []

    def probability(self, vote: NeighbourVote) -> float:
        """The probability that the neighbours' answer is right."""
        if not self.weights:
            return 0.0
        z = self.intercept
        for value, mean, scale, weight in zip(vote.features, self.mean, self.scale, self.weights, strict=True):
            z += weight * (value - mean) / scale
        return float(1 / (1 + np.exp(-z)))

    def accepts(self, label: str, vote: NeighbourVote, settings: CacheSettings) -> bool:
        """Whether the evidence is enough to answer."""
        return (
            vote.support >= settings.cache_support_min
            and vote.typical >= self.typical.get(label, 2.0)
            and self.probability(vote) >= self.thresholds.get(label, self.floor)
        )

    def record_feedback(self, label: str, probability: float, right: bool, bound: float) -> EvidenceModel:
        """The model with feedback on one answer; only that answer's threshold moves."""
        outcomes = [*self.outcomes, ObservedHit(label, probability, right)]
        own = [outcome for outcome in outcomes if outcome.label == label]
        thresholds = {**self.thresholds, label: _threshold_of(own, self.floor, bound)}
        return msgspec.structs.replace(self, outcomes=outcomes, thresholds=thresholds)


def learn_evidence(
    vectors: Vectors, labels: Ints, shapes: Ints, names: Sequence[str], settings: CacheSettings, *, seed: int = 0
) -> EvidenceModel:
    """Fit the model to ``n`` stored questions of one language: vectors ``(n, 256)``, labels and shapes ``(n,)``.

    ``names`` are the labels' names. The model accepts nothing where there are too few questions to show that the bound holds.
    """
    rng = np.random.default_rng(seed)
    if len(labels) > settings.cache_learn_questions:
        chosen = rng.choice(len(labels), settings.cache_learn_questions, replace=False)
        vectors, labels, shapes = vectors[chosen], labels[chosen], shapes[chosen]
    votes = _cross_validated(vectors, labels, shapes, settings.cache_neighbours, rng)
    right = np.array([vote.label == label for vote, label in zip(votes, labels, strict=True)])
    if not len(right) or right.all() or not right.any():
        return EvidenceModel()
    features = np.array([vote.features for vote in votes])
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-9
    weights, intercepts = fit((features - mean) / scale, right.astype(np.intp), penalty=_PENALTY, iterations=1000)
    model = EvidenceModel(
        mean.tolist(),
        scale.tolist(),
        (weights[:, 1] - weights[:, 0]).tolist(),
        float(intercepts[1] - intercepts[0]),
        typical=_typical(vectors, labels, names, settings.cache_typicality_min),
    )
    _set_thresholds(model, _eligible_hits(model, votes, right, names, settings), settings.cache_false_hits_max)
    return model


def _eligible_hits(
    model: EvidenceModel,
    votes: Sequence[NeighbourVote],
    right: npt.NDArray[np.bool_],
    names: Sequence[str],
    settings: CacheSettings,
) -> list[ObservedHit]:
    """The questions with enough support and typicality, whatever their probability."""
    return [
        ObservedHit(names[vote.label], model.probability(vote), bool(correct))
        for vote, correct in zip(votes, right, strict=True)
        if vote.support >= settings.cache_support_min and vote.typical >= model.typical.get(names[vote.label], 2.0)
    ]


def _set_thresholds(model: EvidenceModel, hits: list[ObservedHit], bound: float) -> None:
    model.floor = lowest_threshold(
        np.array([hit.probability for hit in hits]), np.array([hit.right for hit in hits], bool), bound
    )
    by_label: dict[str, list[ObservedHit]] = {}
    for hit in hits:
        by_label.setdefault(hit.label, []).append(hit)
    model.thresholds = {label: _threshold_of(own, model.floor, bound) for label, own in by_label.items()}
    model.outcomes = [hit for hit in hits if hit.probability >= model.floor]


def lowest_threshold(scores: Floats, right: npt.NDArray[np.bool_], bound: float) -> float:
    """The lowest score at and above which (wrong + 1) / (all + 1) is at most ``bound``; 2 where there is none."""
    order = np.argsort(-scores, kind="stable")
    wrong = np.cumsum(~right[order])
    holds = np.flatnonzero((wrong + 1) / (np.arange(len(order)) + 2) <= bound)
    return float(scores[order][holds[-1]]) if len(holds) else 2.0


def _threshold_of(outcomes: list[ObservedHit], floor: float, bound: float) -> float:
    """At least ``floor``, and above the probabilities at which the answer was wrong clearly more often than the bound allows."""
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
    return [vote for vote in found if vote is not None]


def _typical(vectors: Vectors, labels: Ints, names: Sequence[str], share: float) -> dict[str, float]:
    """For each label, the similarity to its nearest other questions that all but ``share`` of its questions reach."""
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
