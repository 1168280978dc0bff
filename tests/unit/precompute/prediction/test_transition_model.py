"""The transition model: trained on session logs as they are, smoothed, calibrated, saved and compared."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from mangalib.cli import cli
from mangalib.errors import DataError
from mangalib.precompute.prediction.hit_rates import hit_rate
from mangalib.precompute.prediction.rollout import train_and_compare
from mangalib.precompute.prediction.session_log import SessionLog
from mangalib.precompute.prediction.training import train_on_log
from mangalib.precompute.prediction.transition_model import Relation, TransitionModel
from mangalib.settings import load_settings
from tests.conftest import SHARED_DATA

SETTINGS = load_settings()
START = datetime(2026, 3, 1, tzinfo=UTC)


def log_of(sessions: list[list[str]], folder: Path, suffix: str = ".csv", **columns: object) -> Path:
    rows = [
        {"session_id": f"s{number}", "at": START + timedelta(minutes=5 * number, seconds=20 * i), "intent": intent}
        for number, session in enumerate(sessions)
        for i, intent in enumerate(session)
    ]
    frame = pd.DataFrame(rows).assign(**columns)
    path = folder / f"log{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(path)
    elif suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True, date_format="iso")
    else:
        frame.to_csv(path, index=False)
    return path


def model_of(sessions: list[list[str]]) -> TransitionModel:
    """A model that has observed the sessions, all with the same weight."""
    model = TransitionModel(order=4, half_life_days=1)
    for session in sessions:
        for i in range(1, len(session)):
            model.observe(session[:i], session[i], Relation.NONE, at_us=0)
    return model


def scored(path: Path, **options: object) -> tuple[object, SessionLog]:
    log = SessionLog(path, SETTINGS.session_events_max)
    return hit_rate(log, order=4, half_life_days=60), log


def test_real_dialogues_are_predicted_better_than_by_plain_counts() -> None:
    path = SHARED_DATA / "sgd_sessions.parquet"
    if not path.exists():
        pytest.skip("needs the shared data sets")
    result = CliRunner().invoke(cli, ["hit-rate", "--sessions", str(path), "--json"])
    assert result.exit_code == 0, result.output
    score = json.loads(result.stdout)
    assert score["transitions"] == 4398
    assert score["top1"] > 0.674
    assert score["top2"] > 0.894
    assert score["top4"] > 0.966
    assert score["calibration_error"] < 0.03
    assert sum(row["transitions"] for row in score["by_trigger"].values()) == 4398


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_a_log_is_the_same_in_every_format(suffix: str, tmp_path: Path) -> None:
    rng = random.Random(3)
    sessions = [[rng.choice("abcd") for _ in range(rng.randrange(2, 6))] for _ in range(200)]
    score, log = scored(log_of(sessions, tmp_path, suffix))
    reference, _ = scored(log_of(sessions, tmp_path, ".csv"))
    assert score == reference
    assert log.repairs.rows == sum(len(session) for session in sessions)


def test_repairs_of_a_log_are_made_and_counted(tmp_path: Path) -> None:
    path = log_of([["a", "b", "c"]] * 50, tmp_path)
    frame = pd.read_csv(path)
    frame["at"] = frame["at"].str.removesuffix("+00:00")
    messy = pd.concat([frame, frame.iloc[:10]]).sample(frac=1, random_state=1)
    messy.loc[messy.index[0], "intent"] = None
    messy.to_csv(path, index=False)
    score, log = scored(path)
    assert log.repairs.rows == 160
    assert log.repairs.taken_as_utc == 160
    assert log.repairs.dropped_without_session_time_or_intent == 1
    assert log.repairs.dropped_duplicates in {9, 10}
    assert log.repairs.put_in_order > 20
    assert "put in order" in log.repairs.as_text()
    assert score.top1 == 1.0  # type: ignore[attr-defined]


def test_only_the_beginning_of_an_endless_session_counts(tmp_path: Path) -> None:
    path = log_of([["x", "y"] * 20_000, *[["a", "b", "c"]] * 40], tmp_path)
    score, log = scored(path)
    assert log.repairs.left_out_of_long_sessions == 40_000 - SETTINGS.session_events_max
    assert score.top1 == 1.0  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("session_id,when,intent\na,2026-01-01T00:00:00Z,x\n", "no column at"),
        ("session_id,at,intent\na,yesterday,x\n", "at='yesterday' in 1 of 1 rows"),
        ("session_id,at,intent\n", "empty"),
        ("session_id,at,intent\na,2026-01-01T00:00:00Z,x\n", "one session"),
    ],
)
def test_an_invalid_log_is_reported_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(text)
    result = CliRunner().invoke(cli, ["hit-rate", "--sessions", str(path)])
    assert result.exit_code != 0
    assert isinstance(result.exception, DataError)
    assert message in str(result.exception)
    with pytest.raises(DataError, match="expected a name that ends in"):
        list(SessionLog(tmp_path / "log.xlsx", 10))


def test_unknown_intents_fall_back_to_base_rates(tmp_path: Path) -> None:
    model = model_of([["a", "b"], ["a", "b"], ["a", "c"], ["b", "a"]])
    base = model.next_intents([])
    assert model.next_intents(["unknown", "also unknown"]) == pytest.approx(base)
    assert sum(base.values()) == pytest.approx(1)
    score, _ = scored(log_of([["a", "b"]] * 40 + [["new", "newer"]] * 10, tmp_path))
    assert (score.top1, score.transitions) == (0.0, 10)  # type: ignore[attr-defined]


@given(st.lists(st.lists(st.sampled_from("abcde"), min_size=2, max_size=6), min_size=1, max_size=30))
def test_probabilities_add_up_to_one_without_the_current_intent(sessions: list[list[str]]) -> None:
    model = model_of(sessions)
    for session in sessions:
        predicted = model.next_intents(session)
        assert session[-1] not in predicted
        assert not predicted or sum(predicted.values()) == pytest.approx(1)


def test_entities_are_predicted_with_intents_and_old_counts_decay(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        [
            (f"s{i}", START + timedelta(days=i, seconds=s), intent, entity)
            for i in range(100)
            for s, (intent, entity) in enumerate(
                [("ask", "m1"), ("buy" if i < 70 else "compare", "m1" if i < 70 else "m2")]
            )
        ],
        columns=["session_id", "at", "intent", "entity"],
    )
    frame.to_parquet(tmp_path / "log.parquet")
    decaying = train_on_log(SessionLog(tmp_path / "log.parquet", 200), order=2, half_life_days=5)
    steady = train_on_log(SessionLog(tmp_path / "log.parquet", 200), order=2, half_life_days=10_000)
    assert max(steady.predict(["ask"]), key=steady.predict(["ask"]).get) == ("buy", Relation.SAME)  # type: ignore[arg-type]
    assert max(decaying.predict(["ask"]), key=decaying.predict(["ask"]).get) == ("compare", Relation.NEW)  # type: ignore[arg-type]


def test_a_saved_model_predicts_the_same_and_can_be_updated(tmp_path: Path) -> None:
    model = model_of([["a", "b", "c"]] * 5)
    model.save(tmp_path / "model.json")
    loaded = TransitionModel.load(tmp_path / "model.json")
    assert loaded.predict(["a"]) == model.predict(["a"])
    for _ in range(50):
        loaded.observe(["a"], "surprise", Relation.NEW, at_us=0)
    assert max(loaded.next_intents(["a"]), key=loaded.next_intents(["a"]).get) == "surprise"  # type: ignore[arg-type]
    (tmp_path / "model.json").write_text('{"format": 99}')
    with pytest.raises(DataError, match="expected a transition model"):
        TransitionModel.load(tmp_path / "model.json")


def test_a_worse_model_is_not_adopted(tmp_path: Path) -> None:
    model = tmp_path / "model.json"
    rng = random.Random(1)
    good = [["a", "b", "c", "d"]] * 100
    assert train_and_compare(SessionLog(log_of(good, tmp_path), 200), model, SETTINGS).adopted
    before = model.read_bytes()
    unchanged = train_and_compare(SessionLog(log_of(good, tmp_path), 200), model, SETTINGS)
    assert not unchanged.adopted
    assert "nothing newer" in unchanged.summary
    later = [["a", "b", "c", "d"]] * 100 + [rng.sample("abcd", 4) for _ in range(80)] + [["a", "b", "c", "d"]] * 60
    worse = train_and_compare(SessionLog(log_of(later, tmp_path), 200), model, SETTINGS)
    assert not worse.adopted
    assert "was not adopted" in worse.summary
    assert model.read_bytes() == before
    changed_behaviour = [["a", "b", "c", "d"]] * 100 + [["a", "c", "b", "d"]] * 400
    better = train_and_compare(SessionLog(log_of(changed_behaviour, tmp_path), 200), model, SETTINGS)
    assert better.adopted
    assert TransitionModel.load(model).version == 2
