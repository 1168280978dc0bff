"""Follow-up candidates: those worth their tokens, for the titles that the prediction points to."""

from __future__ import annotations

from mangalib.domain import Catalogue
from mangalib.nlu import MeaningReader, Topics
from mangalib.precompute.conversation import ConversationState
from mangalib.precompute.prediction.candidates import follow_up_candidates
from mangalib.precompute.prediction.transition_model import Relation
from mangalib.settings import load_settings

SETTINGS = load_settings()
TOPICS = Topics.from_data(SETTINGS, MeaningReader(Catalogue.load(SETTINGS.data_dir / "catalogue.csv")))


def test_only_follow_ups_worth_their_tokens_are_candidates() -> None:
    session = ConversationState(history=["product_inquiry"], current_title="m001")
    predicted = {("purchase", Relation.SAME): 0.6, ("price", Relation.SAME): 0.01, ("complaint", Relation.NONE): 0.39}
    chosen = follow_up_candidates(predicted, session, TOPICS, SETTINGS, saved_s=2.0)
    assert [candidate.question.topic for candidate in chosen] == ["purchase"]
    assert follow_up_candidates(predicted, session, TOPICS, SETTINGS, saved_s=0.01) == [], "nothing to save"


def test_listed_titles_are_prefetched_without_tokens() -> None:
    browsing = ConversationState(history=["category_browse"], listed_titles=["m001", "m002"])
    listed = follow_up_candidates({("product_inquiry", Relation.NEW): 0.8}, browsing, TOPICS, SETTINGS, saved_s=2.0)
    assert {(candidate.question.title, candidate.method, candidate.tokens) for candidate in listed} == {
        ("m001", "prefetch", 0),
        ("m002", "prefetch", 0),
    }
