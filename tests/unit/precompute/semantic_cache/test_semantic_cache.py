"""The semantic cache: what must be equal, how much evidence is enough, and the bound on false hits."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from mangalib.cli import cli
from mangalib.domain.catalogue import Catalogue
from mangalib.nlu.embedding import embed_phrasing
from mangalib.nlu.evidence import EvidenceModel, ObservedHit, lowest_threshold
from mangalib.nlu.meaning import MeaningReader
from mangalib.nlu.question_index import QuestionIndex
from mangalib.nlu.topics import Topics
from mangalib.precompute.semantic_cache.accuracy import LabelledQuestion, measure_accuracy
from mangalib.settings import load_settings

SETTINGS = load_settings()
READER = MeaningReader(Catalogue.load(SETTINGS.data_dir / "catalogue.csv"))


DIFFERENT_QUESTIONS = [
    ("Is Naruto in stock?", "Is Bleach in stock?"),
    ("Is Naruto in stock?", "Is Naruto not in stock?"),
    ("Is Naruto in stock?", "Isn't Naruto in stock?"),
    ("Do you have Naruto volume 3?", "Do you have Naruto volume 4?"),
    ("Do you have Naruto volume three?", "Do you have Naruto volume four?"),
    ("Do you have Naruto volume one?", "Do you have Naruto volume two?"),
    ("Do you have the first volume of Naruto?", "Do you have the second volume of Naruto?"),
    ("Do you have Naruto?", "Do you have Naruto volume 4?"),
    ("Is Kaguya Nights in stock?", "Is Harbour Days in stock?"),
    ("Where is order MA-10001?", "Where is order MA-10002?"),
    ("Does shipping cost 5 dollars?", "Does shipping cost 50 dollars?"),
    ("Can I pay in Osaka?", "Can I pay in Kyoto?"),
    ("Do you ship to Germany?", "Do you ship to France?"),
    ("ナルトの在庫はありますか", "ブリーチの在庫はありますか"),
    ("ナルトの3巻はありますか", "ナルトの4巻はありますか"),
    ("ナルトの三巻はありますか", "ナルトの四巻はありますか"),
    ("ナルトの最新刊はありますか", "ナルトの最終巻はありますか"),
    ("ナルトは買えますか", "ナルトは買えませんか"),
    ("注文MA-10001はどこですか", "注文MA-10002はどこですか"),
    ("『夜の港』はありますか", "『朝の庭』はありますか"),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT_QUESTIONS)
def test_questions_about_different_things_never_share_an_answer(one: str, other: str) -> None:
    assert READER.read(one).values != READER.read(other).values


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Do you have Naruto volume three?", "Have you got volume 3 of Naruto?"),
        ("ナルトの三巻はありますか", "ナルトの３巻はありますか"),
        ("Where can I buy Naruto?", "how do I get naruto"),
    ],
)
def test_other_wordings_of_a_question_may_share_an_answer(one: str, other: str) -> None:
    assert READER.read(one).values == READER.read(other).values


def test_a_different_title_number_or_negation_never_hits_whatever_the_support() -> None:
    """Each question is stored in many wordings and for many titles, so the evidence for its wording is as strong as can be."""
    titles = [manga for manga in READER._catalogue.items[:40] if manga.title.isascii() and " " in manga.title]
    known, unknown = titles[:-4], titles[-4:]
    wordings = {
        "stock": ["Is {} in stock?", "Do you have {} in stock?", "Is {} in stock now?", "Would {} be in stock?"],
        "price": ["How much is {}?", "What does {} cost?", "How much does {} cost?", "What is the price of {}?"],
        "stock_ja": ["{}の在庫はありますか", "{}は在庫がありますか", "{}の在庫はまだありますか"],
    }
    stored = [
        LabelledQuestion(
            "stored", template.format(manga.title_ja if "ja" in kind else manga.title), f"{kind}:{manga.manga_id}"
        )
        for kind, templates in wordings.items()
        for manga in known
        for template in templates
    ]
    asked = []
    for manga in unknown:
        asked += [f"Is {manga.title} in stock?", f"{manga.title_ja}の在庫はありますか"]
    for manga in known[:6]:
        asked += [
            f"Is {manga.title} not in stock?",
            f"Is {manga.title} volume 7 in stock?",
            f"Is the second volume of {manga.title} in stock?",
            f"{manga.title_ja}の7巻の在庫はありますか",
            f"{manga.title_ja}の在庫はありませんか",
        ]
    rows = [LabelledQuestion("asked", text, "another answer") for text in asked]
    found = measure_accuracy(stored, rows, SETTINGS)
    assert (found.hit_rate, found.mistakes) == (0.0, [])
    repeated = [
        LabelledQuestion("asked", row.text.upper() if row.text.isascii() else row.text, row.answer) for row in stored
    ]
    assert measure_accuracy(stored, repeated, SETTINGS).false_hit_rate == 0


def test_with_too_few_stored_questions_nothing_is_answered_by_similarity() -> None:
    stored = [LabelledQuestion("stored", text, "open") for text in ("When are you open?", "What are your hours?")]
    asked = [LabelledQuestion("asked", text, "open") for text in ("When do you open?", "when are you  OPEN")]
    found = measure_accuracy(stored, asked, SETTINGS)
    assert (found.hit_rate, found.exact_hits) == (0.5, 1)


def test_feedback_moves_the_threshold_of_that_answer_alone() -> None:
    model = EvidenceModel(weights=[1.0], mean=[0.0], scale=[1.0], floor=0.9, thresholds={"a": 0.9, "b": 0.9})
    model.outcomes = [ObservedHit("a", 0.95, True)] * 40 + [ObservedHit("b", 0.95, True)] * 40
    for _ in range(5):
        model = model.record_feedback("a", 0.93, False, bound=0.01)
    assert model.thresholds["a"] > 0.93
    assert model.thresholds["b"] == 0.9


def test_the_threshold_is_the_lowest_that_holds_the_bound() -> None:
    rng = np.random.default_rng(1)
    score = rng.uniform(size=20_000)
    right = rng.uniform(size=20_000) < score
    threshold = lowest_threshold(score, right, 0.05)
    assert (~right)[score >= threshold].mean() <= 0.05
    assert (~right)[score >= threshold - 0.02].mean() > 0.05
    assert lowest_threshold(score[:5], right[:5], 0.01) == 2.0, "five questions cannot show that a bound of 1 % holds"


def test_the_nearest_question_is_found_among_many() -> None:
    rng = np.random.default_rng(2)
    vectors = rng.standard_normal((20_000, 256)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = QuestionIndex()
    index.add([str(i) for i in range(len(vectors))], vectors, list(range(len(vectors))), [0] * len(vectors))
    found = 0
    for number in range(200):
        near = vectors[number] + 0.06 * rng.standard_normal(256).astype(np.float32)
        _, labels, _ = index.nearest(near / np.linalg.norm(near), 5)
        found += labels[0] == number
    assert found >= 198
    index.remove("7")
    assert 7 not in index.nearest(vectors[7], 5)[1]
    index.add(["new"], vectors[7:8], [123], [0])
    assert index.nearest(vectors[7], 1)[1][0] == 123


def test_topics_are_recognised_in_both_languages_and_other_questions_have_none() -> None:
    topics = Topics.from_data(SETTINGS, READER)

    def topic_of(text: str) -> str | None:
        meaning = READER.read(text)
        topic = topics.of(text, meaning, embed_phrasing(meaning.phrasing, meaning.language))
        return topic.name if topic else None

    for text, topic in {
        "Where can I buy it?": "purchase",
        "how do I get One Piece?": "purchase",
        "ワンピースはどこで買えますか": "purchase",
        "When will it arrive?": "order_eta",
        "いつ届きますか": "order_eta",
    }.items():
        assert topic_of(text) == topic
    for text in ("What is your return policy?", "Hello", "My volume arrived damaged", "xyzzy plugh"):
        assert topic_of(text) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("part,text\nstored,a\n", "no column answer"),
        ("part,text,answer\nkept,a,b\n", "line 2: part='kept'"),
        ("part,text,answer\nstored,,b\n", "line 2: text or answer is empty"),
        ("part,text,answer\nstored,a,b\n", "0 asked"),
    ],
)
def test_an_invalid_file_of_questions_is_reported_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "questions.csv"
    path.write_text(text)
    result = CliRunner().invoke(cli, ["cache-accuracy", "--questions", str(path)])
    assert message in str(result.exception)


def test_the_bound_holds_on_simulated_questions_too() -> None:
    """Forty simulated answers with words of their own, asked with words missing and mixed."""
    rng = random.Random(5)
    words = [
        f"{a}{b}"
        for a in ("ka", "ro", "mi", "tu", "le", "so", "na", "fi")
        for b in ("bren", "dol", "stra", "vim", "gort", "plen")
    ]
    own = {f"answer {n}": rng.sample(words, 6) for n in range(40)}

    def question(answer: str) -> str:
        return " ".join(["please", *rng.sample(own[answer], 4), rng.choice(words)])

    stored = [LabelledQuestion("stored", question(answer), answer) for answer in own for _ in range(30)]
    asked = [LabelledQuestion("asked", question(answer), answer) for answer in own for _ in range(25)]
    found = measure_accuracy(stored, asked, SETTINGS)
    assert found.hit_rate > 0.3
    assert found.false_hit_rate <= 0.02
