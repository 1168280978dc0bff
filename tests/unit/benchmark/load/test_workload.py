"""The workload: the same for the same seed, like what customers ask, and never waiting for answers."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from mangalib.benchmark.load.workload import PRODUCTION, SYNTHETIC, make_workload, questions_of
from mangalib.domain.catalogue import Catalogue
from mangalib.domain.intents import Intent
from mangalib.errors import DataError
from mangalib.settings import load_settings

SETTINGS = load_settings()


def test_the_same_seed_asks_the_same_and_another_does_not() -> None:
    one, same, other = (make_workload(SETTINGS, per_intent=10, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_every_intent_is_asked_as_often_and_all_are_interleaved() -> None:
    asked = sorted(questions_of(make_workload(SETTINGS, per_intent=50, seed=1)), key=lambda q: q.due_s)
    assert set(Counter(q.intent for q in asked).values()) == {50}
    assert {q.intent for q in asked} == set(Intent) - {Intent.DEFAULT}
    for block in range(0, len(asked), 8):
        assert len({q.intent for q in asked[block : block + 8]}) == 8
    for intent in {q.intent for q in asked}:
        assert [q.sequence for q in asked if q.intent == intent] == list(range(50))
    assert {q.origin for q in asked} == {SYNTHETIC}


def test_arrivals_are_a_poisson_process_at_the_configured_rate() -> None:
    asked = [q.due_s for q in questions_of(make_workload(SETTINGS, per_intent=50, seed=3, rate_per_s=8))]
    assert 35 < max(asked) < 70, "400 questions at 8 a second"
    gaps = [after - before for before, after in pairwise(sorted(asked))]
    assert min(gaps) < 0.01, "arrivals bunch as people do"


def test_popular_titles_come_more_often_in_both_languages() -> None:
    texts = [q.text for q in questions_of(make_workload(SETTINGS, per_intent=50, seed=1))]
    catalogue = Catalogue.load(SETTINGS.data_dir / "catalogue.csv")
    counts = Counter(title.manga_id for text in texts for title in catalogue.mentioned(text))
    first_ten = sum(counts[title.manga_id] for title in catalogue.items[:10])
    assert first_ten > 0.25 * counts.total()
    assert max(counts.values()) >= 8, "the most popular title is asked about again and again"
    japanese = sum(any("\u3040" <= letter <= "\u9fff" for letter in text) for text in texts) / len(texts)
    assert 0.2 < japanese < 0.5


def test_some_questions_follow_others_about_the_same_title_in_the_same_session() -> None:
    workload = make_workload(SETTINGS, per_intent=50, seed=1)
    chains = [conversation.questions for conversation in workload if len(conversation.questions) > 1]
    assert len(chains) > 20
    for chain in chains:
        gaps = [after.due_s - before.due_s for before, after in pairwise(chain)]
        assert min(gaps) >= SETTINGS.follow_up_after_s
    catalogue = Catalogue.load(SETTINGS.data_dir / "catalogue.csv")
    both = [[set(catalogue.mentioned(question.text)) for question in chain[:2]] for chain in chains]
    about_titles = [(a, b) for a, b in both if a and b]
    assert about_titles
    assert sum(bool(a & b) for a, b in about_titles) / len(about_titles) > 0.9


def test_production_questions_are_added_to_the_workload(tmp_path: Path) -> None:
    log = tmp_path / "queries.jsonl"
    lines = [{"at": "2026-11-01T10:00:00Z", "intent": "faq", "text": f"Question {n}?"} for n in range(30)]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    asked = list(questions_of(make_workload(SETTINGS, per_intent=5, seed=1, production=log)))
    drawn = [q for q in asked if q.origin == PRODUCTION]
    assert len(drawn) == 5
    assert all(q.intent == Intent.FAQ and q.text.startswith("Question ") for q in drawn)
    assert len(asked) == 45
    assert sorted(q.sequence for q in asked if q.intent == Intent.FAQ) == list(range(10))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "empty"),
        ("not json\n", "line 1"),
        ('{"intent": "faq", "text": "a"}\n{"intent": "nonsense", "text": "b"}\n', "line 2: 'nonsense'"),
        ('{"intent": "faq"}\n', "line 1: 'text'"),
    ],
)
def test_a_query_log_that_cannot_be_used_names_its_line(tmp_path: Path, content: str, says: str) -> None:
    log = tmp_path / "queries.jsonl"
    log.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=says):
        make_workload(SETTINGS, per_intent=1, seed=1, production=log)
    with pytest.raises(DataError, match="No such file"):
        make_workload(SETTINGS, per_intent=1, seed=1, production=tmp_path / "none")
    with pytest.raises(DataError, match="per_intent=0"):
        make_workload(SETTINGS, per_intent=0, seed=1)
