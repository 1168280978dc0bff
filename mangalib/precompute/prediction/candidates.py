"""Which follow-ups are worth generating: probability × seconds saved × value of a second, minus the cost of the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mangalib.nlu import Topics
from mangalib.precompute.conversation import ConversationState
from mangalib.precompute.generated_answer import CanonicalQuestion
from mangalib.precompute.generation.spec import GenerationMethod, follow_up_method, is_predictable
from mangalib.precompute.prediction.transition_model import NextIntent, Relation
from mangalib.settings import CandidateSettings

# Typical input tokens of a template or a summary.
_INPUT_TOKENS = 250


@dataclass(frozen=True)
class Candidate:
    """A follow-up question: its probability, how it would be generated, and the net value of that (US dollars)."""

    question: CanonicalQuestion
    method: GenerationMethod
    probability: float
    value_usd: float
    tokens: int


def follow_up_candidates(
    predicted: dict[NextIntent, float],
    session: ConversationState,
    topics: Topics,
    settings: CandidateSettings,
    *,
    saved_s: float,
) -> list[Candidate]:
    """The follow-ups worth generating for a session now, the most valuable first; at most ``follow_up_candidates``.

    ``predicted`` is P of each (topic, relation); ``saved_s`` is the time that a live answer takes.
    """
    trigger = session.history[-1] if session.history else ""
    probabilities: dict[CanonicalQuestion, float] = {}
    for (name, relation), p in predicted.items():
        topic = topics.by_name.get(name)
        if topic is None or not is_predictable(topic):
            continue
        titles = _titles_for(relation, session) if topic.about_title else [""]
        for title in titles:
            question = CanonicalQuestion(name, title, session.language)
            probabilities[question] = probabilities.get(question, 0.0) + p / len(titles)
    candidates = [_candidate(question, p, trigger, topics, settings, saved_s) for question, p in probabilities.items()]
    worthwhile = sorted((c for c in candidates if c.value_usd > 0), key=lambda c: -c.value_usd)
    return worthwhile[: settings.follow_up_candidates]


def generation_cost(method: GenerationMethod, settings: CandidateSettings) -> tuple[float, int]:
    """The cost of one generated follow-up in US dollars, and its tokens."""
    if method is GenerationMethod.PREFETCH:
        return 0.0, 0
    tokens_in, tokens_out = _INPUT_TOKENS, settings.follow_up_answer_tokens
    usd = tokens_in * settings.haiku_input_usd_per_mtok + tokens_out * settings.haiku_output_usd_per_mtok
    return usd / 1e6, tokens_in + tokens_out


def _titles_for(relation: Relation, session: ConversationState) -> Sequence[str]:
    if relation is Relation.SAME:
        return [session.current_title] if session.current_title else []
    if relation is Relation.EARLIER:
        return session.earlier_titles[-1:]
    return session.listed_titles if relation is Relation.NEW else []


def _candidate(
    question: CanonicalQuestion,
    p: float,
    trigger: str,
    topics: Topics,
    settings: CandidateSettings,
    saved_s: float,
) -> Candidate:
    method = follow_up_method(trigger, topics.by_name[question.topic])
    usd, tokens = generation_cost(method, settings)
    return Candidate(question, method, p, p * saved_s * settings.second_saved_usd - usd, tokens)
