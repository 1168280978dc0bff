"""Trains a transition model on session logs, in one pass over batches of whole sessions."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd

from mangalib.precompute.prediction.session_log import Events, SessionLog, positions_in_session
from mangalib.precompute.prediction.transition_model import (
    DAY_US,
    FIRST_INTENT,
    INTENTS_MAX,
    RELATIONS,
    START,
    Counts,
    Relation,
    TransitionModel,
)

_BASE = INTENTS_MAX + 2
_ROWS_MAX = 500_000


def train(batches: Iterable[Events], intents: list[str], *, order: int, half_life_days: float) -> TransitionModel:
    """Train on batches of whole sessions; ``intents`` may grow as batches are read."""
    tables: list[pd.DataFrame] = [pd.DataFrame() for _ in range(order + 1)]
    reference_us: int | None = None
    as_of_us, transitions = 0, 0
    for events in batches:
        newest_us = int(events.at_us.max())
        reference_us = newest_us if reference_us is None else reference_us
        as_of_us = max(as_of_us, newest_us)
        found = transitions_in(events, order)
        weight = np.exp2((found.at_us - reference_us) / (half_life_days * DAY_US))
        transitions += len(weight)
        for k in range(order + 1):
            tables[k] = _added(tables[k], found, k, weight)
    scale = float(np.exp2(((reference_us or 0) - as_of_us) / (half_life_days * DAY_US)))
    return TransitionModel(
        order=order,
        half_life_days=half_life_days,
        intents=intents,
        counts=_counts(tables, scale),
        transitions=transitions,
        as_of_us=as_of_us,
    )


def train_on_log(log: SessionLog, *, order: int, half_life_days: float) -> TransitionModel:
    """Train on a whole log."""
    return train(log, log.intents, order=order, half_life_days=half_life_days)


def _counts(tables: list[pd.DataFrame], scale: float) -> Counts:
    counts: Counts = {(): {}}
    for k, table in enumerate(tables):
        if table.empty:
            continue
        keys = table["context"].to_numpy()
        columns = [keys // _BASE**j % _BASE for j in range(k)]
        contexts = zip(*(column.tolist() for column in columns), strict=True) if k else ((),) * len(keys)
        rows = zip(contexts, table["outcome"].tolist(), (table["weight"] * scale).tolist(), strict=True)
        for context, outcome, weight in rows:
            counts.setdefault(context, {})[outcome] = weight
    return counts


class Transitions(msgspec.Struct):
    """Transitions, as arrays of shape ``(n,)``: ``context[k]`` is the key of the last k tokens, -1 where there are fewer."""

    context: list[npt.NDArray[np.int64]]
    outcome: npt.NDArray[np.int64]
    at_us: npt.NDArray[np.int64]

    def longest_context(self) -> npt.NDArray[np.int64]:
        """The key of each transition's longest context: shape (transitions,)."""
        longest = self.context[0]
        for longer in self.context[1:]:
            longest = np.where(longer >= 0, longer, longest)
        return longest

    def intent(self) -> npt.NDArray[np.int64]:
        """The next intent of each transition, as a position in the log's ``intents``: shape (transitions,)."""
        return self.outcome // len(Relation)


def transitions_in(events: Events, order: int) -> Transitions:
    """The changes of intent within sessions; repetitions of one intent count as one question."""
    starts = np.concatenate([[True], events.session[1:] != events.session[:-1]])
    runs = starts | np.concatenate([[True], events.intent[1:] != events.intent[:-1]])
    relation = _relations(events)[runs]
    session, intent = events.session[runs], events.intent[runs]
    position = positions_in_session(session)
    follows = np.flatnonzero(position > 0)
    key = np.zeros(len(follows), np.int64)
    contexts = [key]
    for k in range(1, order + 1):
        # The k-th token back is an intent, or the start token before the first one.
        back = position[follows] - k
        token = np.where(back >= 0, intent[np.maximum(follows - k, 0)] + FIRST_INTENT, START)
        key = np.where((back >= -1) & (key >= 0), key + token * _BASE ** (k - 1), -1)
        contexts.append(key)
    outcome = intent[follows] * len(Relation) + relation[follows]
    return Transitions(contexts, outcome, events.at_us[runs][follows])


def history_of(context: int) -> list[int]:
    """The intents of a context's key, the oldest first, as positions in the log's ``intents``."""
    tokens = []
    while context:
        context, token = divmod(context, _BASE)
        tokens.append(token)
    return [token - FIRST_INTENT for token in reversed(tokens) if token >= FIRST_INTENT]


def _relations(events: Events) -> npt.NDArray[np.int64]:
    pairs = pd.MultiIndex.from_arrays([events.session, events.entity]) if len(events) else pd.MultiIndex([[]], [[]])
    seen = np.asarray(pairs.duplicated())
    same = np.concatenate(
        [[False], (events.session[1:] == events.session[:-1]) & (events.entity[1:] == events.entity[:-1])]
    )
    number = {relation: i for i, relation in enumerate(RELATIONS)}
    return np.select(
        [events.entity < 0, same, seen],
        [number[Relation.NONE], number[Relation.SAME], number[Relation.EARLIER]],
        number[Relation.NEW],
    )


def _added(table: pd.DataFrame, found: Transitions, k: int, weight: npt.NDArray[np.float64]) -> pd.DataFrame:
    known = found.context[k] >= 0
    more = pd.DataFrame({"context": found.context[k][known], "outcome": found.outcome[known], "weight": weight[known]})
    both = more if table.empty else pd.concat([table, more], ignore_index=True)
    counted: pd.DataFrame = both.groupby(["context", "outcome"], sort=False)["weight"].sum().reset_index()
    # Bound the memory: of the endless contexts of automated clients the rarest are dropped.
    return counted.nlargest(_ROWS_MAX, "weight") if len(counted) > 2 * _ROWS_MAX else counted
