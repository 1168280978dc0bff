"""Predicts what is asked next: P(next intent, entity relation | the session so far).

The model counts which outcomes followed which contexts of zero to ``order`` intents, newest first; the start of the
session is a token of its own, and older transitions count less. Contexts are interpolated from the shortest to the
longest by Witten and Bell's smoothing (1991, method C): (count + types × shorter context's probability) / (total +
types), where ``types`` is the number of different outcomes seen in the context.

>>> model = TransitionModel.learn_sessions([["inquiry", "purchase"], ["inquiry", "purchase"], ["inquiry", "similar"]])
>>> model.next_intents(["inquiry"])["purchase"] > model.next_intents(["inquiry"])["similar"]
True
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt

from mangalib.errors import DataError
from mangalib.precompute.prediction.session_log import INTENTS_MAX, Events, SessionLog, positions_in_session
from mangalib.storage import write_atomically

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
_DAY_US = 86_400_000_000
_BASE = INTENTS_MAX + 2
_START, _FIRST_INTENT = 1, 2
_ROWS_MAX = 500_000


class Relation(StrEnum):
    """How the next question's entity relates to those of the session: the current one, an earlier one, a new one, none."""

    SAME = "same"
    EARLIER = "earlier"
    NEW = "new"
    NONE = "none"


_RELATIONS = list(Relation)
NextIntent = tuple[str, Relation]


class _Saved(msgspec.Struct):
    format: int
    version: int
    as_of_us: int
    half_life_days: float
    order: int
    transitions: int
    intents: list[str]
    # Of each context: its tokens, then outcomes and their counts.
    contexts: list[tuple[list[int], list[int], list[float]]]


class TransitionModel:
    """Trained by :meth:`learn`, saved as a versioned file, and updated online by :meth:`observe`."""

    def __init__(self, *, order: int, half_life_days: float) -> None:
        self.order = order
        self.half_life_days = half_life_days
        self.version = 1
        self.as_of_us = 0
        self.transitions = 0
        self.intents: list[str] = []
        self._number: dict[str, int] = {}
        self._counts: dict[tuple[int, ...], dict[int, float]] = {(): {}}

    @classmethod
    def learn(
        cls, batches: Iterable[Events], intents: list[str], *, order: int, half_life_days: float
    ) -> TransitionModel:
        """Train on batches of whole sessions, in one pass; ``intents`` may grow as batches are read."""
        import pandas as pd  # serving loads a model and observes; only training needs pandas

        model = cls(order=order, half_life_days=half_life_days)
        tables: list[pd.DataFrame] = [pd.DataFrame() for _ in range(order + 1)]
        reference_us: int | None = None
        for events in batches:
            reference_us = int(events.at_us.max()) if reference_us is None else reference_us
            model.as_of_us = max(model.as_of_us, int(events.at_us.max()))
            found = transitions_in(events, order)
            weight = np.exp2((found.at_us - reference_us) / (half_life_days * _DAY_US))
            model.transitions += len(weight)
            for k in range(order + 1):
                tables[k] = _added(tables[k], found, k, weight)
        model._name(intents)
        model._fill(tables, np.exp2(((reference_us or 0) - model.as_of_us) / (half_life_days * _DAY_US)))
        return model

    @classmethod
    def merged(cls, models: Sequence[TransitionModel]) -> TransitionModel:
        """One model of several, each trained on different sessions; all have the same order and half-life."""
        merged = cls(order=models[0].order, half_life_days=models[0].half_life_days)
        merged.as_of_us = max(model.as_of_us for model in models)
        merged._name(dict.fromkeys(name for model in models for name in model.intents))
        for model in models:
            number = [merged._number[name] for name in model.intents]
            scale = float(np.exp2((model.as_of_us - merged.as_of_us) / (merged.half_life_days * _DAY_US)))
            merged.transitions += model.transitions
            for context, counts in model._counts.items():
                tokens = (number[t - _FIRST_INTENT] + _FIRST_INTENT if t >= _FIRST_INTENT else t for t in context)
                merged_counts = merged._counts.setdefault(tuple(tokens), {})
                for outcome, weight in counts.items():
                    intent, relation = divmod(outcome, len(Relation))
                    key = number[intent] * len(Relation) + relation
                    merged_counts[key] = merged_counts.get(key, 0.0) + weight * scale
        return merged

    @classmethod
    def learn_sessions(cls, sessions: Sequence[Sequence[str]], *, order: int = 4) -> TransitionModel:
        """Train on sessions given as lists of intents without entities; all count the same."""
        model = cls(order=order, half_life_days=1.0)
        for session in sessions:
            for i in range(1, len(session)):
                model.observe(session[:i], session[i], Relation.NONE, at_us=0)
        return model

    def observe(self, history: Sequence[str], intent: str, relation: Relation, *, at_us: int) -> None:
        """Count that ``intent`` followed ``history`` at ``at_us`` (us since 1970)."""
        if not history or history[-1] == intent:
            return
        if intent not in self._number and len(self.intents) < INTENTS_MAX:
            self._name([*self.intents, intent])
        outcome = self._number[intent] * len(Relation) + _RELATIONS.index(relation)
        weight = float(np.exp2((at_us - self.as_of_us) / (self.half_life_days * _DAY_US)))
        self.transitions += 1
        for context in self._contexts(history):
            counts = self._counts.setdefault(context, {})
            counts[outcome] = counts.get(outcome, 0.0) + weight

    def predict(self, history: Sequence[str]) -> dict[NextIntent, float]:
        """P of each next (intent, relation) whose intent differs from the last one; they add up to 1.

        An unknown intent shortens the context, down to the base rates; an untrained model gives ``{}``.
        """
        blended: dict[int, float] = {}
        for context in self._contexts(history):
            counts = self._counts.get(context)
            if not counts:
                break
            total, types = sum(counts.values()), len(counts) if context else 0
            shorter = blended or dict.fromkeys(counts, 0.0)
            blended = {o: (counts.get(o, 0.0) + types * p) / (total + types) for o, p in shorter.items()}
        last = self._number.get(history[-1], -1) if history else -1
        possible = {o: p for o, p in blended.items() if o // len(Relation) != last}
        remaining = sum(possible.values())
        return {
            (self.intents[o // len(Relation)], _RELATIONS[o % len(Relation)]): p / remaining
            for o, p in possible.items()
        }

    def next_intents(self, history: Sequence[str]) -> dict[str, float]:
        """P of each next intent, whatever its entity; the most likely first."""
        by_intent: dict[str, float] = {}
        for (intent, _), p in self.predict(history).items():
            by_intent[intent] = by_intent.get(intent, 0.0) + p
        return dict(sorted(by_intent.items(), key=lambda item: -item[1]))

    def save(self, path: Path) -> None:
        """Write the file atomically."""
        contexts = [(list(c), list(counts), list(counts.values())) for c, counts in self._counts.items()]
        saved = _Saved(
            FORMAT,
            self.version,
            self.as_of_us,
            self.half_life_days,
            self.order,
            self.transitions,
            self.intents,
            [
                (context, outcomes, [float(f"{count:.6g}") for count in counts])
                for context, outcomes, counts in contexts
            ],
        )
        write_atomically(path, msgspec.json.encode(saved).decode())

    @classmethod
    def load(cls, path: Path) -> TransitionModel:
        """Read a file of :meth:`save`; raises ``DataError`` for any other file or another format."""
        try:
            saved = msgspec.json.decode(path.read_bytes(), type=_Saved)
        except (OSError, msgspec.MsgspecError) as error:
            raise DataError(f"{path}: {error}; expected a transition model") from None
        if saved.format != FORMAT:
            raise DataError(
                f"{path}: format={saved.format}; expected {FORMAT}: train it again with mangalib transitions"
            )
        model = cls(order=saved.order, half_life_days=saved.half_life_days)
        model.version, model.as_of_us, model.transitions = saved.version, saved.as_of_us, saved.transitions
        model._name(saved.intents)
        model._counts = {
            tuple(context): dict(zip(outcomes, counts, strict=True)) for context, outcomes, counts in saved.contexts
        }
        return model

    def _contexts(self, history: Sequence[str]) -> list[tuple[int, ...]]:
        """Contexts from the shortest to the longest, each newest intent first; none reaches past an unknown intent."""
        tokens = [self._number.get(name, -_FIRST_INTENT) + _FIRST_INTENT for name in reversed(history[-self.order :])]
        if len(history) < self.order:
            tokens.append(_START)
        known = tokens.index(0) if 0 in tokens else len(tokens)
        return [tuple(tokens[:k]) for k in range(min(self.order, known) + 1)]

    def _name(self, intents: Iterable[str]) -> None:
        self.intents = list(intents)
        self._number = {name: number for number, name in enumerate(self.intents)}

    def _fill(self, tables: list[pd.DataFrame], scale: float) -> None:
        for k, table in enumerate(tables):
            if table.empty:
                continue
            keys = table["context"].to_numpy()
            columns = [keys // _BASE**j % _BASE for j in range(k)]
            contexts = zip(*(column.tolist() for column in columns), strict=True) if k else ((),) * len(keys)
            rows = zip(contexts, table["outcome"].tolist(), (table["weight"] * scale).tolist(), strict=True)
            for context, outcome, weight in rows:
                self._counts.setdefault(context, {})[outcome] = weight


class Transitions(msgspec.Struct):
    """Transitions, as arrays of shape ``(n,)``: ``context[k]`` is the key of the last k tokens, -1 where there are fewer."""

    context: list[npt.NDArray[np.int64]]
    outcome: npt.NDArray[np.int64]
    at_us: npt.NDArray[np.int64]

    def longest_context(self) -> npt.NDArray[np.int64]:
        """The key of each transition's longest context."""
        longest = self.context[0]
        for longer in self.context[1:]:
            longest = np.where(longer >= 0, longer, longest)
        return longest

    def intent(self) -> npt.NDArray[np.int64]:
        """The next intent of each transition, as a position in the log's ``intents``."""
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
        token = np.where(back >= 0, intent[np.maximum(follows - k, 0)] + _FIRST_INTENT, _START)
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
    return [token - _FIRST_INTENT for token in reversed(tokens) if token >= _FIRST_INTENT]


def _relations(events: Events) -> npt.NDArray[np.int64]:
    import pandas as pd

    pairs = pd.MultiIndex.from_arrays([events.session, events.entity]) if len(events) else pd.MultiIndex([[]], [[]])
    seen = np.asarray(pairs.duplicated())
    same = np.concatenate(
        [[False], (events.session[1:] == events.session[:-1]) & (events.entity[1:] == events.entity[:-1])]
    )
    number = {relation: i for i, relation in enumerate(_RELATIONS)}
    return np.select(
        [events.entity < 0, same, seen],
        [number[Relation.NONE], number[Relation.SAME], number[Relation.EARLIER]],
        number[Relation.NEW],
    )


def _added(table: pd.DataFrame, found: Transitions, k: int, weight: npt.NDArray[np.float64]) -> pd.DataFrame:
    import pandas as pd

    known = found.context[k] >= 0
    more = pd.DataFrame({"context": found.context[k][known], "outcome": found.outcome[known], "weight": weight[known]})
    both = more if table.empty else pd.concat([table, more], ignore_index=True)
    counted: pd.DataFrame = both.groupby(["context", "outcome"], sort=False)["weight"].sum().reset_index()
    # Bound the memory: of the endless contexts of automated clients the rarest are dropped.
    return counted.nlargest(_ROWS_MAX, "weight") if len(counted) > 2 * _ROWS_MAX else counted


def learn_from_log(log: SessionLog, *, order: int, half_life_days: float) -> TransitionModel:
    """Train on a whole log, in one pass."""
    return TransitionModel.learn(log, log.intents, order=order, half_life_days=half_life_days)
