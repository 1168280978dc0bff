"""Generated answers: keys of canonical questions, and scopes in Redis that never collide."""

from __future__ import annotations

from mangalib.precompute.generated_answer import CanonicalQuestion, scope_key


def test_a_canonical_question_is_read_from_its_key() -> None:
    question = CanonicalQuestion("price", "m001", "ja")
    assert CanonicalQuestion.from_key(question.key) == question


def test_scope_keys_never_collide_whatever_is_in_the_ids() -> None:
    pairs = [
        ("a", "bc"),
        ("ab", "c"),
        ('a"', "b"),
        ("a", '"b'),
        ("", "abc"),
        ("a,b", ""),
        ("\u00e9", ""),
        ("e\u0301", ""),
    ]
    assert len({scope_key(*pair) for pair in pairs}) == len(pairs)
