"""A session's conversation: its titles, and the canonical form of its questions."""

from __future__ import annotations

import pytest

from mangalib.domain import Catalogue
from mangalib.nlu import IntentClassifier, MeaningReader, QuestionParser, Topics
from mangalib.precompute.conversation import ConversationState
from mangalib.precompute.generated_answer import CanonicalQuestion
from mangalib.precompute.prediction.transition_model import Relation
from mangalib.settings import load_settings

SETTINGS = load_settings()
READER = MeaningReader(Catalogue.load(SETTINGS.data_dir / "catalogue.csv"))
PARSER = QuestionParser(READER, IntentClassifier.from_data(SETTINGS), Topics.from_data(SETTINGS, READER))
ONE_PIECE = "m001"


def canonical(text: str, *, current_title: str = "") -> CanonicalQuestion | None:
    return ConversationState(current_title=current_title).canonical_question(PARSER.parse(text))


@pytest.mark.parametrize("text", ["Where can I buy One Piece?", "how do I get One Piece?"])
def test_wordings_of_one_question_have_one_canonical_form(text: str) -> None:
    assert canonical(text) == CanonicalQuestion("purchase", ONE_PIECE, "en")


def test_a_pronoun_stands_for_the_current_title() -> None:
    assert canonical("Where can I buy it?", current_title="m007") == CanonicalQuestion("purchase", "m007", "en")
    assert canonical("Where can I buy it?") is None


def test_a_question_about_an_order_needs_no_title() -> None:
    assert canonical("When will it arrive?", current_title="m007") == CanonicalQuestion("order_eta", "", "en")


@pytest.mark.parametrize(
    "text",
    [
        "Where can I not buy One Piece?",
        "Where can I buy volume 3 of One Piece?",
        "Where can I buy One Piece and Naruto?",
        "What is your return policy?",
    ],
)
def test_a_question_that_asks_for_more_has_no_canonical_form(text: str) -> None:
    assert canonical(text) is None


def test_titles_become_earlier_ones_when_the_conversation_moves_on() -> None:
    state = ConversationState()
    state.ask("product_inquiry", ["m001"], "en")
    state.ask("similar", ["m001"], "en")
    state.ask("product_inquiry", ["m002"], "en")
    state.ask("recommendation", ["m003", "m004"], "ja")
    assert (state.current_title, state.earlier_titles, state.listed_titles) == ("m002", ["m001"], ["m003", "m004"])
    assert state.history == ["product_inquiry", "similar", "product_inquiry", "recommendation"]
    assert state.language == "ja"
    relations = [state.relation_of(title) for title in ("m002", "m001", "m003", "")]
    assert relations == [Relation.SAME, Relation.EARLIER, Relation.NEW, Relation.NONE]


def test_the_history_is_bounded() -> None:
    state = ConversationState()
    for number in range(100):
        state.ask(f"topic {number}", [f"m{number}"], "en")
    assert state.history == [f"topic {number}" for number in range(80, 100)]
    assert len(state.earlier_titles) == 20
