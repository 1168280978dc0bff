"""``mangalib cache-accuracy`` on real questions: how often the semantic cache answers, and how often wrongly."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from mangalib.cli import cli
from tests.conftest import SHARED_DATA


def test_real_questions_are_answered_often_and_rarely_wrongly() -> None:
    path = SHARED_DATA / "banking77_questions.csv"
    if not path.exists():
        pytest.skip("needs the shared data sets")
    result = CliRunner().invoke(cli, ["cache-accuracy", "--questions", str(path), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["hit_rate"] >= 0.60
    assert found["false_hit_rate"] <= 0.01
    assert found["asked"] == 3080
    assert found["cosine"]["hit_rate"] < found["hit_rate"] / 3
    assert len(found["mistakes"]) == round(found["false_hit_rate"] * found["hit_rate"] * 3080, 0)
