"""What is known of a session's conversation: its topics and titles, and how its last answer came about."""

from __future__ import annotations

from dataclasses import dataclass, field

from mangalib.nlu import ParsedQuestion
from mangalib.precompute.generated_answer import CanonicalQuestion
from mangalib.precompute.prediction.transition_model import Relation

_HISTORY_MAX = 20
# Numbers in these topics' questions do not narrow the question down.
_TOPICS_WITH_NUMBERS = {"release"}


@dataclass(frozen=True)
class SimilarityHit:
    """An answer of the semantic cache given by similarity: its label and the probability that it was right."""

    language: str
    label: str
    probability: float


@dataclass
class ConversationState:
    """The conversation of one session; titles are manga ids."""

    history: list[str] = field(default_factory=list)
    current_title: str = ""
    earlier_titles: list[str] = field(default_factory=list)
    listed_titles: list[str] = field(default_factory=list)
    language: str = "en"
    # The last answer, if the semantic cache gave it by similarity, and the warming program that generated it, if one did.
    similarity_hit: SimilarityHit | None = None
    program: str = ""

    def ask(self, topic: str, titles: list[str], language: str) -> None:
        """Record a question of ``topic``: about one title, or answered with a list of ``titles``."""
        self.history = [*self.history, topic][-_HISTORY_MAX:]
        self.language = language
        if len(titles) == 1 and titles[0] != self.current_title:
            if self.current_title:
                self.earlier_titles = [*self.earlier_titles, self.current_title][-_HISTORY_MAX:]
            self.current_title = titles[0]
        elif len(titles) > 1:
            self.listed_titles = titles

    def relation_of(self, title: str) -> Relation:
        """How a title relates to the session's titles."""
        if not title:
            return Relation.NONE
        if title == self.current_title:
            return Relation.SAME
        return Relation.EARLIER if title in self.earlier_titles else Relation.NEW

    def canonical_question(self, question: ParsedQuestion) -> CanonicalQuestion | None:
        """The canonical form of a question; ``None`` for one that asks for more: numbers, other names, orders, a negation."""
        meaning, topic = question.meaning, question.topic
        if topic is None or (meaning.numbers and topic.name not in _TOPICS_WITH_NUMBERS):
            return None
        if meaning.names or meaning.orders or meaning.negations or len(meaning.titles) > 1:
            return None
        if not topic.about_title:
            return None if meaning.titles else CanonicalQuestion(topic.name, "", meaning.language)
        titles = meaning.titles or ((self.current_title,) if meaning.refers_back else ())
        return CanonicalQuestion(topic.name, titles[0], meaning.language) if titles and titles[0] else None
