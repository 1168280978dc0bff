"""How well the next intent is predicted: learned on the earlier sessions of a log, scored on the later ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from mangalib.errors import DataError
from mangalib.precompute.prediction.session_log import Events, SessionLog
from mangalib.precompute.prediction.transition_model import Relation, TransitionModel, history_of, transitions_in

HELD_OUT_SHARE = 0.2
_BINS = 10


class Score(msgspec.Struct, frozen=True):
    """Shares of ``transitions`` whose intent was among the likeliest one, two and four."""

    top1: float
    top2: float
    top4: float
    transitions: int


class HitRate(msgspec.Struct, frozen=True):
    """Scores of all and of each current intent (``by_trigger``).

    ``calibration_error`` is the expected calibration error of the likeliest intent over ten bins (Naeini et al. 2015),
    ``log_loss`` in nats. Intents that the model never saw count as misses.
    """

    top1: float
    top2: float
    top4: float
    calibration_error: float
    log_loss: float
    transitions: int
    by_trigger: dict[str, Score]
    reliability: list[tuple[float, float, int]]


def split(events: Events, held_out: float = HELD_OUT_SHARE) -> tuple[Events, Events]:
    """The earlier sessions and the later ones, by the time of their first event."""
    first = np.flatnonzero(np.concatenate([[True], events.session[1:] != events.session[:-1]]))
    lengths = np.diff(np.append(first, len(events)))
    order = np.argsort(events.at_us[first], kind="stable")
    later = np.zeros(len(first), bool)
    later[order[int(len(first) * (1 - held_out)) :]] = True
    chosen = np.repeat(later, lengths)
    return events.of(~chosen), events.of(chosen)


def hit_rate(log: SessionLog, *, order: int, half_life_days: float) -> HitRate:
    """Learn on the first four fifths of the sessions, score on the last; raises ``DataError`` when there is nothing to score."""
    earlier, later = split(log.whole())
    if not len(earlier):
        raise DataError(f"{log.path}: one session; expected enough to learn from some and score on others")
    model = TransitionModel.learn([earlier], log.intents, order=order, half_life_days=half_life_days)
    return score(model, later, log.intents)


def score(model: TransitionModel, events: Events, intents: Sequence[str]) -> HitRate:
    """How well ``model`` foretells ``events``, whose intents are positions in ``intents``."""
    found = transitions_in(events, model.order) if len(events) else None
    if found is None or not len(found.outcome):
        raise DataError("no session of the scored part has two different intents: there is nothing to foretell")
    actual = found.outcome // len(Relation)
    rows: list[tuple[str, int, float, float, float]] = []
    longest = found.context[0]
    for shorter in found.context[1:]:
        longest = np.where(shorter >= 0, shorter, longest)
    pairs, counts = np.unique(np.stack([longest, actual]), axis=1, return_counts=True)
    predicted: dict[int, dict[str, float]] = {}
    for context, intent, times in zip(*pairs.tolist(), counts.tolist(), strict=True):
        history = [intents[i] for i in history_of(context)]
        if context not in predicted:
            predicted[context] = model.next_intents(history)
        likeliest = list(predicted[context])
        name = intents[intent]
        place = likeliest.index(name) if name in predicted[context] else math.inf
        said = predicted[context][likeliest[0]] if likeliest else 0.0
        p_actual = predicted[context].get(name, 0.0)
        rows.append((history[-1], times, place, said, p_actual))
    trigger = np.array([row[0] for row in rows])
    count, rank, confidence, p = (
        np.array(column, np.float64) for column in zip(*(row[1:] for row in rows), strict=True)
    )
    error, reliability = _calibration(confidence, rank == 0, count)
    whole = _score(rank, count)
    return HitRate(
        top1=whole.top1,
        top2=whole.top2,
        top4=whole.top4,
        calibration_error=error,
        log_loss=float((-np.log(np.maximum(p, 1e-6)) * count).sum() / count.sum()),
        transitions=whole.transitions,
        by_trigger={
            name: _score(rank[trigger == name], count[trigger == name]) for name in np.unique(trigger).tolist()
        },
        reliability=reliability,
    )


def _score(rank: npt.NDArray[np.float64], count: npt.NDArray[np.float64]) -> Score:
    total = count.sum()
    tops = [round(float(count[rank < k].sum() / total), 4) for k in (1, 2, 4)]
    return Score(tops[0], tops[1], tops[2], int(total))


def _calibration(
    confidence: npt.NDArray[np.float64], right: npt.NDArray[np.bool_], count: npt.NDArray[np.float64]
) -> tuple[float, list[tuple[float, float, int]]]:
    """The error, and of each bin with anything in it: mean confidence, share that was right, and how many."""
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    reliability = []
    for number in np.unique(bins):
        here = bins == number
        n = count[here].sum()
        said, was = float((confidence * count)[here].sum() / n), float((right * count)[here].sum() / n)
        reliability.append((round(said, 4), round(was, 4), int(n)))
    error = sum(n * abs(said - was) for said, was, n in reliability) / count.sum()
    return round(float(error), 4), reliability
