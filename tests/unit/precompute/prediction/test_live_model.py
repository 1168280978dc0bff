"""The live transition model: reloaded when its file is replaced, kept when the new file is broken."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mangalib.precompute.prediction.live_model import LiveModel
from mangalib.precompute.prediction.transition_model import Relation, TransitionModel
from mangalib.settings import PredictionSettings


def replaced(path: Path, follows: str, *, at_ns: int) -> None:
    model = TransitionModel(order=4, half_life_days=1)
    model.observe(["a"], follows, Relation.NONE, at_us=0)
    model.save(path)
    os.utime(path, ns=(at_ns, at_ns))


def next_of(model: LiveModel) -> list[str]:
    return [intent for intent, _ in model.predict(["a"])]


def test_a_replaced_file_is_reloaded_and_a_broken_one_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "model.json"
    live = LiveModel(PredictionSettings(transition_model=path))
    live.refresh()
    assert live.predict(["a"]) == {}, "no file yet"
    replaced(path, "b", at_ns=1_000)
    live.refresh()
    assert next_of(live) == ["b"]
    replaced(path, "c", at_ns=2_000)
    live.refresh()
    assert next_of(live) == ["c"]
    path.write_text("{", encoding="utf-8")
    live.refresh()
    assert next_of(live) == ["c"]
    assert "keeping the last good one" in caplog.text


def test_observations_last_until_the_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    live = LiveModel(PredictionSettings(transition_model=path))
    replaced(path, "b", at_ns=1_000)
    live.refresh()
    live.observe(["a"], "d", Relation.NEW, at_us=0)
    live.refresh()
    assert "d" in next_of(live)
    replaced(path, "b", at_ns=2_000)
    live.refresh()
    assert next_of(live) == ["b"]
