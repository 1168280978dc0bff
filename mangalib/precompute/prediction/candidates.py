"""Which follow-ups are worth making: probability × seconds saved × what a second is worth, less what the tokens cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mangalib.nlu import Topics
from mangalib.precompute.generated_answer import Need
from mangalib.precompute.generation import spec as makers
from mangalib.precompute.generation.spec import Kind
from mangalib.precompute.prediction.transition_model import NextIntent, Relation
from mangalib.settings import Settings

# What a prompt of a template or a summary has, before any was seen.
_USUAL_INPUT_TOKENS = 250


@dataclass
class Ongoing:
    """What is known of a session: topics asked for, the title it is about, the titles that were shown, and where it stands."""

    history: list[str] = field(default_factory=list)
    subject: str = ""
    earlier: list[str] = field(default_factory=list)
    listed: list[str] = field(default_factory=list)
    language: str = "en"
    # Language, label and probability of the last answer, if it was given by similarity.
    by_similarity: tuple[str, str, float] | None = None
    # Which programme made the answer that was given last, if one did.
    program: str = ""

    def relation_of(self, title: str) -> Relation:
        """How a title stands to what was talked about."""
        if not title:
            return Relation.NONE
        if title == self.subject:
            return Relation.SAME
        return Relation.EARLIER if title in self.earlier else Relation.NEW


@dataclass(frozen=True)
class Candidate:
    """A follow-up: how likely, how it is made, and what making it is worth (US dollars)."""

    need: Need
    kind: Kind
    probability: float
    worth_usd: float
    tokens: int


def candidates(
    predicted: dict[NextIntent, float], session: Ongoing, topics: Topics, settings: Settings, *, saved_s: float
) -> list[Candidate]:
    """What is worth making for a session now, the most valuable first; at most ``follow_up_candidates`` of each kind of entity.

    ``predicted`` is P of each (topic, relation); ``saved_s`` what a live answer takes.
    """
    trigger = session.history[-1] if session.history else ""
    found: dict[Need, float] = {}
    for (name, relation), p in predicted.items():
        topic = topics.by_name.get(name)
        if topic is None or not makers.can_be_made(topic):
            continue
        titles = _titles_for(relation, session) if topic.about_title else [""]
        for title in titles:
            need = Need(name, title, session.language)
            found[need] = found.get(need, 0.0) + p / len(titles)
    rated = [_rated(need, p, trigger, topics, settings, saved_s) for need, p in found.items()]
    worthwhile = sorted((c for c in rated if c.worth_usd > 0), key=lambda c: -c.worth_usd)
    return worthwhile[: settings.follow_up_candidates]


def cost_usd(kind: Kind, settings: Settings) -> tuple[float, int]:
    """What one answer of a kind costs, and its tokens."""
    if kind is Kind.PREFETCH:
        return 0.0, 0
    tokens_in, tokens_out = _USUAL_INPUT_TOKENS, settings.follow_up_answer_tokens
    usd = tokens_in * settings.haiku_input_usd_per_mtok + tokens_out * settings.haiku_output_usd_per_mtok
    return usd / 1e6, tokens_in + tokens_out


def _titles_for(relation: Relation, session: Ongoing) -> Sequence[str]:
    if relation is Relation.SAME:
        return [session.subject] if session.subject else []
    if relation is Relation.EARLIER:
        return session.earlier[-1:]
    return session.listed if relation is Relation.NEW else []


def _rated(need: Need, p: float, trigger: str, topics: Topics, settings: Settings, saved_s: float) -> Candidate:
    kind = makers.kind_of(trigger, topics.by_name[need.topic])
    usd, tokens = cost_usd(kind, settings)
    return Candidate(need, kind, p, p * saved_s * settings.second_saved_usd - usd, tokens)
