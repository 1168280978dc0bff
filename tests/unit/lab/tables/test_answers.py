"""Tables and plots of answers."""

from __future__ import annotations

import pytest

from mangalib.client import Received, Reply
from mangalib.lab import plots, tables
from mangalib.lab.tables.answers import FRAME_STAGE, THINKING
from mangalib.protocol import Card, Chunk, Done, Metadata, ProductCard, Status, TitleCard
from mangalib.settings import load_settings

TIMELINE = {
    "received": 0.0,
    "classified": 10.0,
    "routed": 12.0,
    "cache": 20.0,
    "fan_out": 20.0,
    "prompt": 21.0,
    "model_asked": 21.0,
    "first_token": 321.0,
    "done": 500.0,
}


def reply() -> Reply:
    metadata = Metadata(321, 500, 9, 50, "haiku", "faq", "model", TIMELINE)
    frames = [
        Received(5.0, Status("typing", "Let me find that answer...", "r", 0)),
        Received(325.0, Chunk("Hello", "r", 1)),
        Received(400.0, Chunk(" there", "r", 2)),
        Received(503.0, Done(metadata, "r", 3)),
    ]
    return Reply("r", "Hello there", metadata, None, frames, 325.0, 503.0)


def test_rendering_milestones_are_when_each_step_first_arrived() -> None:
    title = TitleCard("m001", "One Piece", "ワンピース", "Eiichiro Oda", ["adventure"])
    product = ProductCard(
        "m001", "One Piece", "ワンピース", "Eiichiro Oda", ["adventure"], 100, 9.99, 5, "https://shop/m001"
    )
    answer = reply()
    answer.frames[1:1] = [Received(7.0, Card(title, "r", 1))]
    answer.frames[-1:-1] = [Received(402.0, Card(product, "r", 4))]
    table = tables.description_milestones(answer, load_settings())
    assert list(table["measured_ms"]) == [5.0, 7.0, 400.0, 402.0, 402.0]
    assert list(table["budget_ms"]) == [100, 900, 2000, 2300, 2400]


def test_a_step_that_did_not_occur_has_a_budget_and_no_time() -> None:
    table = tables.list_milestones(reply(), load_settings()).set_index("step")
    assert table["measured_ms"].notna().to_dict() == {
        "introduction": True,
        "first title": False,
        "second title": False,
        "third title": False,
        "product cards": False,
    }
    figure = plots.rendering_timeline({"recommendations": table.reset_index()}, "a model of latency")
    assert [trace.name for trace in figure.data] == ["budget", "measured"]
    assert "ms" in figure.layout.xaxis.title.text


def test_the_screen_at_a_moment_is_what_had_arrived_by_then() -> None:
    screen = tables.screen_at(reply(), [0, 100, 330, 450, 600])
    assert list(screen["phase"]) == ["instant", "context", "streaming", "streaming", "complete"]
    assert list(screen["characters"]) == [0, 0, 5, 11, 11]
    assert screen["on screen"].iloc[0] == THINKING
    assert screen["on screen"].iloc[1] == "Let me find that answer..."


def test_stages_are_what_lies_between_two_marks() -> None:
    stages = tables.measured_stages([reply()] * 3, retrieval=False).set_index("stage")["duration_ms"]
    assert stages["classify the intent"] == 10
    assert stages["first token (Haiku)"] == 300
    assert stages[FRAME_STAGE] == 4
    assert next(iter(stages.index)) == "classify the intent"


@pytest.mark.parametrize("retrieval", [False, True])
def test_budgeted_stages_stay_within_the_first_token_budget(retrieval: bool) -> None:
    settings = load_settings()
    plan = tables.budgeted_stages(settings, retrieval=retrieval)
    budget_ms = settings.retrieval_first_token_budget_ms if retrieval else settings.simple_first_token_budget_ms
    end_ms = (plan["start_ms"] + plan["duration_ms"]).max()
    assert 0.9 * budget_ms < end_ms <= budget_ms


def test_plots_have_a_title_units_the_budget_and_a_note_on_the_source_of_their_times() -> None:
    frames = tables.frames(reply())
    figure = plots.frame_timeline({"simple": frames}, {"simple": 400}, "a model of latency")
    assert "a model of latency" in figure.layout.title.text
    assert "ms" in figure.layout.xaxis.title.text
    assert any("budget" in trace.name for trace in figure.data)
    symbols = [trace.marker.symbol for trace in figure.data if trace.mode == "markers"]
    assert len(set(symbols)) == len(symbols), "shapes differ, not only colours"
