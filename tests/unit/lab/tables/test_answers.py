"""Tables made of answers: pure functions, so that what a notebook shows can be checked by hand."""

from __future__ import annotations

import pytest

from mangalib.client import Received, Reply
from mangalib.lab.plots import streaming as plots
from mangalib.lab.tables import answers as traces
from mangalib.protocol.frames import Chunk, Done, Metadata, Status
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


def test_the_screen_at_a_moment_is_what_had_arrived_by_then() -> None:
    screen = traces.screen_at(reply(), [0, 100, 330, 450, 600])
    assert list(screen["phase"]) == ["instant", "context", "streaming", "streaming", "complete"]
    assert list(screen["characters"]) == [0, 0, 5, 11, 11]
    assert screen["on screen"].iloc[0] == traces.THINKING
    assert screen["on screen"].iloc[1] == "Let me find that answer..."


def test_stages_are_what_lies_between_two_marks() -> None:
    stages = traces.measured_stages([reply()] * 3, retrieval=False).set_index("stage")["duration_ms"]
    assert stages["classify the intent"] == 10
    assert stages["first token (Haiku)"] == 300
    assert stages[traces.FRAME_STAGE] == 4
    assert next(iter(stages.index)) == "classify the intent"


@pytest.mark.parametrize("retrieval", [False, True])
def test_the_plan_of_the_specification_stays_within_its_own_budget(retrieval: bool) -> None:
    settings = load_settings()
    plan = traces.budgeted_stages(settings, retrieval=retrieval)
    budget_ms = settings.retrieval_first_token_budget_ms if retrieval else settings.simple_first_token_budget_ms
    end_ms = (plan["start_ms"] + plan["duration_ms"]).max()
    assert 0.9 * budget_ms < end_ms <= budget_ms


def test_pictures_have_title_unit_budget_and_the_note_on_where_times_come_from() -> None:
    frames = traces.frames_table(reply())
    figure = plots.frame_timeline({"simple": frames}, {"simple": 400}, "a model of latency")
    assert "a model of latency" in figure.layout.title.text
    assert "ms" in figure.layout.xaxis.title.text
    assert any("budget" in trace.name for trace in figure.data)
    symbols = [trace.marker.symbol for trace in figure.data if trace.mode == "markers"]
    assert len(set(symbols)) == len(symbols), "told apart by shape, not by colour alone"
