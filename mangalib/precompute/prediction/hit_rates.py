"""How well the next intent is predicted: trained on the earlier sessions of a log, scored on the later ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from mangalib.errors import DataError
from mangalib.precompute.prediction.session_log import Events, SessionLog
from mangalib.precompute.prediction.training import history_of, train, transitions_in
from mangalib.precompute.prediction.transition_model import TransitionModel

HELD_OUT_SHARE = 0.2
_BINS = 10


class TopKAccuracy(msgspec.Struct, frozen=True):
    """Shares of ``transitions`` whose intent was among the one, two and four most likely."""

    top1: float
    top2: float
    top4: float
    transitions: int


class HitRate(msgspec.Struct, frozen=True):
    """Top-k accuracy over all transitions, and by the current intent (``by_trigger``).

    ``calibration_error`` is the expected calibration error of the most likely intent over ten bins (Naeini et al. 2015),
    ``log_loss`` is in nats. Intents unknown to the model count as misses. ``reliability`` holds, for each bin, the mean
    confidence, the share that was right and the number of transitions.
    """

    top1: float
    top2: float
    top4: float
    calibration_error: float
    log_loss: float
    transitions: int
    by_trigger: dict[str, TopKAccuracy]
    reliability: list[tuple[float, float, int]]


def split_by_time(events: Events) -> tuple[Events, Events]:
    """The earlier sessions and the latest fifth of them, by the time of their first event."""
    first = np.flatnonzero(np.concatenate([[True], events.session[1:] != events.session[:-1]]))
    lengths = np.diff(np.append(first, len(events)))
    order = np.argsort(events.at_us[first], kind="stable")
    later = np.zeros(len(first), bool)
    later[order[int(len(first) * (1 - HELD_OUT_SHARE)) :]] = True
    chosen = np.repeat(later, lengths)
    return events.where(~chosen), events.where(chosen)


def hit_rate(log: SessionLog, *, order: int, half_life_days: float) -> HitRate:
    """Train on the first four fifths of the sessions and score on the last; raises ``DataError`` if either is empty."""
    earlier, later = split_by_time(log.read_all())
    if not len(earlier):
        raise DataError(f"{log.path}: one session; expected at least two, to train on and to score")
    model = train([earlier], log.intents, order=order, half_life_days=half_life_days)
    return score(model, later, log.intents)


def score(model: TransitionModel, events: Events, intents: Sequence[str]) -> HitRate:
    """How well ``model`` predicts ``events``, whose intents are positions in ``intents``; raises ``DataError`` for none."""
    found = transitions_in(events, model.order) if len(events) else None
    if found is None or not len(found.outcome):
        raise DataError("the sessions to score have no transition; expected one with two different intents")
    pairs, counts = np.unique(np.stack([found.longest_context(), found.intent()]), axis=1, return_counts=True)
    predicted: dict[int, dict[str, float]] = {}
    rows: list[tuple[str, float, float, float]] = []
    for context, intent in zip(*pairs.tolist(), strict=True):
        history = [intents[i] for i in history_of(context)]
        if context not in predicted:
            predicted[context] = model.next_intents(history)
        rows.append((history[-1], *_rank_of(intents[intent], predicted[context])))
    trigger, rank, confidence, p = (np.array(column) for column in zip(*rows, strict=True))
    error, reliability = _calibration(confidence, rank == 0, counts)
    overall = _top_k(rank, counts)
    return HitRate(
        top1=overall.top1,
        top2=overall.top2,
        top4=overall.top4,
        calibration_error=error,
        log_loss=float((-np.log(np.maximum(p, 1e-6)) * counts).sum() / counts.sum()),
        transitions=overall.transitions,
        by_trigger={
            name: _top_k(rank[trigger == name], counts[trigger == name]) for name in np.unique(trigger).tolist()
        },
        reliability=reliability,
    )


def _rank_of(intent: str, predicted: dict[str, float]) -> tuple[float, float, float]:
    """The intent's rank among the predicted ones, from 0; the probability of the first; its own probability."""
    ranked = list(predicted)
    rank = float(ranked.index(intent)) if intent in predicted else math.inf
    return rank, predicted[ranked[0]] if ranked else 0.0, predicted.get(intent, 0.0)


def _top_k(rank: npt.NDArray[np.float64], count: npt.NDArray[np.int64]) -> TopKAccuracy:
    total = count.sum()
    tops = [round(float(count[rank < k].sum() / total), 4) for k in (1, 2, 4)]
    return TopKAccuracy(tops[0], tops[1], tops[2], int(total))


def _calibration(
    confidence: npt.NDArray[np.float64], right: npt.NDArray[np.bool_], count: npt.NDArray[np.int64]
) -> tuple[float, list[tuple[float, float, int]]]:
    """The calibration error, and for each non-empty bin its mean confidence, share right and number of transitions."""
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    reliability = []
    for number in np.unique(bins):
        in_bin = bins == number
        n = count[in_bin].sum()
        mean_confidence = float((confidence * count)[in_bin].sum() / n)
        accuracy = float((right * count)[in_bin].sum() / n)
        reliability.append((round(mean_confidence, 4), round(accuracy, 4), int(n)))
    error = sum(n * abs(mean_confidence - accuracy) for mean_confidence, accuracy, n in reliability) / count.sum()
    return round(float(error), 4), reliability
