"""What is asked next: P(next intent, entity relation | the session so far).

Counts of what followed which contexts of zero to ``order`` intents, the newest first and the session's beginning among
them, older ones counting less. Contexts are blended from the shortest to the longest, each with the weight that Witten
and Bell (1991, method C) give to what it has not seen: (count + kinds × shorter context's probability) / (total +
kinds).

>>> model = TransitionModel.learn_sessions([["inquiry", "purchase"], ["inquiry", "purchase"], ["inquiry", "similar"]])
>>> model.next_intents(["inquiry"])["purchase"] > model.next_intents(["inquiry"])["similar"]
True
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd

from mangalib.errors import DataError
from mangalib.precompute.prediction.session_log import INTENTS_MAX, Events, SessionLog, places
from mangalib.resilience import refresh_periodically
from mangalib.storage import write_atomically

log = logging.getLogger(__name__)

FORMAT = 1
_DAY_US = 86_400_000_000
_BASE = INTENTS_MAX + 2
_START, _FIRST_INTENT = 1, 2
_KEPT_ROWS = 500_000


class Relation(StrEnum):
    """How the next question's entity stands to those of the session."""

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
    """Learned by :meth:`learn`, kept as a versioned file, and told of what happens by :meth:`observe`."""

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
        """From whole sessions in batches, in one pass; ``intents`` may still grow while the batches are made."""
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
        """One model of what several have learned, each from sessions of its own; all of one order and half-life."""
        whole = cls(order=models[0].order, half_life_days=models[0].half_life_days)
        whole.as_of_us = max(model.as_of_us for model in models)
        whole._name(dict.fromkeys(name for model in models for name in model.intents))
        for model in models:
            number = [whole._number[name] for name in model.intents]
            scale = float(np.exp2((model.as_of_us - whole.as_of_us) / (whole.half_life_days * _DAY_US)))
            whole.transitions += model.transitions
            for context, counts in model._counts.items():
                tokens = (number[t - _FIRST_INTENT] + _FIRST_INTENT if t >= _FIRST_INTENT else t for t in context)
                there = whole._counts.setdefault(tuple(tokens), {})
                for outcome, weight in counts.items():
                    intent, relation = divmod(outcome, len(Relation))
                    key = number[intent] * len(Relation) + relation
                    there[key] = there.get(key, 0.0) + weight * scale
        return whole

    @classmethod
    def learn_sessions(cls, sessions: Sequence[Sequence[str]], *, order: int = 4) -> TransitionModel:
        """From sessions at hand, each a list of intents without entities; all count alike."""
        model = cls(order=order, half_life_days=1.0)
        for session in sessions:
            for i in range(1, len(session)):
                model.observe(session[:i], session[i], Relation.NONE, at_us=0)
        return model

    def observe(self, history: Sequence[str], intent: str, relation: Relation, *, at_us: int) -> None:
        """Count that ``intent`` followed ``history`` at that time (us since 1970)."""
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
        """P of each (intent, relation) to be next, another intent than the last one; they add up to 1.

        Intents that were never seen make the context shorter, down to the base rates; a model that has seen nothing gives ``{}``.
        """
        blended: dict[int, float] = {}
        for context in self._contexts(history):
            counts = self._counts.get(context)
            if not counts:
                break
            total, kinds = sum(counts.values()), len(counts) if context else 0
            shorter = blended or dict.fromkeys(counts, 0.0)
            blended = {o: (counts.get(o, 0.0) + kinds * p) / (total + kinds) for o, p in shorter.items()}
        last = self._number.get(history[-1], -1) if history else -1
        possible = {o: p for o, p in blended.items() if o // len(Relation) != last}
        sum_of_all = sum(possible.values())
        return {
            (self.intents[o // len(Relation)], _RELATIONS[o % len(Relation)]): p / sum_of_all
            for o, p in possible.items()
        }

    def next_intents(self, history: Sequence[str]) -> dict[str, float]:
        """P of each intent to be next, whatever it is about; the likeliest first."""
        by_intent: dict[str, float] = {}
        for (intent, _), p in self.predict(history).items():
            by_intent[intent] = by_intent.get(intent, 0.0) + p
        return dict(sorted(by_intent.items(), key=lambda item: -item[1]))

    def save(self, path: Path) -> None:
        """Write the file whole or not at all."""
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
        """Read a file of :meth:`save`; raises ``DataError`` for one that is not, or of another format."""
        try:
            saved = msgspec.json.decode(path.read_bytes(), type=_Saved)
        except (OSError, msgspec.MsgspecError) as error:
            raise DataError(f"{path}: {error}; expected a transition model") from None
        if saved.format != FORMAT:
            raise DataError(f"{path}: format={saved.format}; expected {FORMAT}: learn it again")
        model = cls(order=saved.order, half_life_days=saved.half_life_days)
        model.version, model.as_of_us, model.transitions = saved.version, saved.as_of_us, saved.transitions
        model._name(saved.intents)
        model._counts = {
            tuple(context): dict(zip(outcomes, counts, strict=True)) for context, outcomes, counts in saved.contexts
        }
        return model

    def _contexts(self, history: Sequence[str]) -> list[tuple[int, ...]]:
        """From the shortest to the longest, the newest intent first; an unknown intent ends them."""
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
    """What followed what, arrays of shape ``(n,)``: ``context[k]`` is the key of the last k tokens, -1 where there are fewer."""

    context: list[npt.NDArray[np.int64]]
    outcome: npt.NDArray[np.int64]
    at_us: npt.NDArray[np.int64]


def transitions_in(events: Events, order: int) -> Transitions:
    """The changes of intent within sessions."""
    begins = np.concatenate([[True], events.session[1:] != events.session[:-1]])
    runs = begins | np.concatenate([[True], events.intent[1:] != events.intent[:-1]])
    relation = _relations(events)[runs]
    session, intent = events.session[runs], events.intent[runs]
    place = places(session)
    follows = np.flatnonzero(place > 0)
    key = np.zeros(len(follows), np.int64)
    contexts = [key]
    for k in range(1, order + 1):
        # The k-th token back is an intent, or the beginning just before the first one.
        back = place[follows] - k
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
    there = found.context[k] >= 0
    more = pd.DataFrame({"context": found.context[k][there], "outcome": found.outcome[there], "weight": weight[there]})
    both = more if table.empty else pd.concat([table, more], ignore_index=True)
    counted: pd.DataFrame = both.groupby(["context", "outcome"], sort=False)["weight"].sum().reset_index()
    # Of contexts without end, as robots make them, the rare ones are forgotten.
    return counted.nlargest(_KEPT_ROWS, "weight") if len(counted) > 2 * _KEPT_ROWS else counted


def learn(log: SessionLog, *, order: int, half_life_days: float) -> TransitionModel:
    """A model of a whole log, in one pass over it."""
    return TransitionModel.learn(log, log.intents, order=order, half_life_days=half_life_days)


class LiveModel:
    """The model of a file, read again when the file is replaced, and told of what happens in between."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_at_ns = 0
        self._model = TransitionModel(order=4, half_life_days=30.0)

    def predict(self, history: Sequence[str]) -> dict[NextIntent, float]:
        """As :meth:`TransitionModel.predict`."""
        return self._model.predict(history)

    def observe(self, history: Sequence[str], intent: str, relation: Relation, *, at_us: int) -> None:
        """As :meth:`TransitionModel.observe`; what was observed lasts until a newer file is there."""
        self._model.observe(history, intent, relation, at_us=at_us)

    def refresh(self) -> None:
        """Read the file if it is newer; one that cannot be used is reported, and the last good model stays."""
        try:
            changed_ns = self._path.stat().st_mtime_ns
            if changed_ns > self._read_at_ns:
                self._model = TransitionModel.load(self._path)
                self._read_at_ns = changed_ns
        except (OSError, DataError) as error:
            log.warning("the transition model could not be read, the last good one stays: %s", error)

    async def follow(self, every_s: float) -> None:
        """Refresh in the background; runs until cancelled."""
        await refresh_periodically("reading the transition model", every_s, partial(asyncio.to_thread, self.refresh))
