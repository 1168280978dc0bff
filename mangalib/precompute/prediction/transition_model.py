"""Predicts what is asked next: P(next intent, entity relation | the session so far).

The model counts which outcomes followed which contexts of zero to ``order`` intents, newest first; the start of the
session is a token of its own, and older transitions count less. Contexts are interpolated from the shortest to the
longest by Witten and Bell's smoothing (1991, method C): (count + types × shorter context's probability) / (total +
types), where ``types`` is the number of different outcomes seen in the context.

>>> model = TransitionModel(order=4, half_life_days=60)
>>> for following in ("purchase", "purchase", "similar"):
...     model.observe(["inquiry"], following, Relation.SAME, at_us=0)
>>> model.next_intents(["inquiry"])["purchase"] > model.next_intents(["inquiry"])["similar"]
True
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path

import msgspec
import numpy as np

from mangalib.errors import DataError
from mangalib.storage import write_atomically

FORMAT = 1
INTENTS_MAX = 5_000
DAY_US = 86_400_000_000
START, FIRST_INTENT = 1, 2


class Relation(StrEnum):
    """How the next question's entity relates to those of the session: the current one, an earlier one, a new one, none."""

    SAME = "same"
    EARLIER = "earlier"
    NEW = "new"
    NONE = "none"


RELATIONS = list(Relation)
NextIntent = tuple[str, Relation]
Counts = dict[tuple[int, ...], dict[int, float]]


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
    """Trained by ``training.train``, saved as a versioned file, and updated online by :meth:`observe`.

    ``counts`` is by context, then by outcome. A context is a tuple of tokens, newest first: :data:`START` or
    :data:`FIRST_INTENT` plus the intent's position in ``intents``. An outcome is the intent's position times the number of
    relations plus the relation's. Counts decay with ``half_life_days`` and are as of ``as_of_us`` (us since 1970).
    """

    def __init__(
        self,
        *,
        order: int,
        half_life_days: float,
        intents: Iterable[str] = (),
        counts: Counts | None = None,
        transitions: int = 0,
        as_of_us: int = 0,
        version: int = 1,
    ) -> None:
        self.order = order
        self.half_life_days = half_life_days
        self.version = version
        self.as_of_us = as_of_us
        self.transitions = transitions
        self._name(intents)
        self._counts: Counts = {(): {}} if counts is None else counts

    @classmethod
    def merged(cls, models: Sequence[TransitionModel]) -> TransitionModel:
        """One model of several, each trained on different sessions; all have the same order and half-life."""
        merged = cls(order=models[0].order, half_life_days=models[0].half_life_days)
        merged.as_of_us = max(model.as_of_us for model in models)
        merged._name(dict.fromkeys(name for model in models for name in model.intents))
        for model in models:
            number = [merged._number[name] for name in model.intents]
            scale = float(np.exp2((model.as_of_us - merged.as_of_us) / (merged.half_life_days * DAY_US)))
            merged.transitions += model.transitions
            for context, counts in model._counts.items():
                tokens = (number[t - FIRST_INTENT] + FIRST_INTENT if t >= FIRST_INTENT else t for t in context)
                merged_counts = merged._counts.setdefault(tuple(tokens), {})
                for outcome, weight in counts.items():
                    intent, relation = divmod(outcome, len(Relation))
                    key = number[intent] * len(Relation) + relation
                    merged_counts[key] = merged_counts.get(key, 0.0) + weight * scale
        return merged

    def observe(self, history: Sequence[str], intent: str, relation: Relation, *, at_us: int) -> None:
        """Count that ``intent`` followed ``history`` at ``at_us`` (us since 1970)."""
        if not history or history[-1] == intent:
            return
        if intent not in self._number and len(self.intents) < INTENTS_MAX:
            self._name([*self.intents, intent])
        outcome = self._number[intent] * len(Relation) + RELATIONS.index(relation)
        weight = float(np.exp2((at_us - self.as_of_us) / (self.half_life_days * DAY_US)))
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
            (self.intents[o // len(Relation)], RELATIONS[o % len(Relation)]): p / remaining for o, p in possible.items()
        }

    def next_intents(self, history: Sequence[str]) -> dict[str, float]:
        """P of each next intent, whatever its entity; the most likely first."""
        by_intent: dict[str, float] = {}
        for (intent, _), p in self.predict(history).items():
            by_intent[intent] = by_intent.get(intent, 0.0) + p
        return dict(sorted(by_intent.items(), key=lambda item: -item[1]))

    def save(self, path: Path) -> None:
        """Write the file atomically; its folder is created."""
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
        path.parent.mkdir(parents=True, exist_ok=True)
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
        counts = {
            tuple(context): dict(zip(outcomes, counts, strict=True)) for context, outcomes, counts in saved.contexts
        }
        return cls(
            order=saved.order,
            half_life_days=saved.half_life_days,
            intents=saved.intents,
            counts=counts,
            transitions=saved.transitions,
            as_of_us=saved.as_of_us,
            version=saved.version,
        )

    def _contexts(self, history: Sequence[str]) -> list[tuple[int, ...]]:
        """Contexts from the shortest to the longest, each newest intent first; none reaches past an unknown intent."""
        tokens = [self._number.get(name, -FIRST_INTENT) + FIRST_INTENT for name in reversed(history[-self.order :])]
        if len(history) < self.order:
            tokens.append(START)
        known = tokens.index(0) if 0 in tokens else len(tokens)
        return [tuple(tokens[:k]) for k in range(min(self.order, known) + 1)]

    def _name(self, intents: Iterable[str]) -> None:
        self.intents = list(intents)
        self._number = {name: number for number, name in enumerate(self.intents)}
