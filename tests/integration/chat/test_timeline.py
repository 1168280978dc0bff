"""Timelines and milestones of browser and Python client, and the release switches of a notebook."""

from __future__ import annotations

import asyncio
from typing import Any

import pandas as pd
import pytest

from mangalib.chat.timeline import COLUMNS, measured_as, milestones, received_conversation, timeline_table
from mangalib.client import Client
from mangalib.domain.releases import OPTIMISATIONS
from mangalib.errors import ReleaseError
from mangalib.lab import plots
from mangalib.lab.laboratory import Laboratory
from mangalib.lab.optimisation_switches import switch_off, switches
from mangalib.local.stack import Stack
from mangalib.settings import Settings

QUESTIONS = ["Hello there", "Recommend me a good fantasy manga"]


def rows_of(request_id: str, intent: str, *events: tuple[str, str, float, float | None]) -> list[dict[str, Any]]:
    about = {"request_id": request_id, "asked_at": "2026-11-24T12:00:00Z", "intent": intent, "source": "model"}
    return [
        about | {"event": event, "detail": detail, "received_ms": received, "painted_ms": painted}
        for event, detail, received, painted in events
    ]


BROWSER = timeline_table(
    rows_of(
        "one",
        "product_search",
        ("sent", "", 0, 0),
        ("instant", "", 0, 15),
        ("status", "typing", 20, None),
        ("card", "title m001", 25, 40),
        ("first_token", "", 1000, 1015),
        ("card", "product m001", 2200, 2210),
        ("done", "", 2201, 2215),
        ("slowest_text", "of 20", 1300, 1317),
    )
)


@pytest.fixture
async def received(stack: Stack) -> pd.DataFrame:
    client = Client(stack.addresses["websocket_url"], stack.addresses["token"], settings=stack.settings)
    return await received_conversation(client, QUESTIONS)


def test_milestones_are_painted_times_beside_their_budgets() -> None:
    settings = Settings()
    table = milestones({"on": BROWSER}, settings).set_index("milestone")
    assert table["at_ms"].to_dict() == {
        "first sign": 15,
        "first card": 40,
        "first token": 1015,
        "last price": 2210,
        "end": 2215,
    }
    assert table.loc["first token", "budget_ms"] == settings.retrieval_first_token_budget_ms
    assert table.loc["end", "budget_ms"] == settings.whole_answer_budget_ms


async def test_the_python_clients_timeline_has_the_same_columns_and_is_marked_received(received: pd.DataFrame) -> None:
    assert tuple(received.columns) == COLUMNS
    assert received["painted_ms"].isna().all()
    assert measured_as([received]) == "received"
    assert measured_as([BROWSER]) == "painted"
    assert measured_as([BROWSER, received]) == "received", "side by side, only times that both have"
    answers = list(received.groupby("request_id", sort=False))
    assert [answer["event"].iloc[0] for _, answer in answers] == ["sent", "sent"]
    assert [answer["event"].iloc[-1] for _, answer in answers] == ["done", "done"]
    assert answers[1][1]["event"].tolist().count("card") == 6
    figure = plots.milestone_timeline(milestones({"here": received}, Settings()), "received", "a note")
    assert "received" in figure.layout.title.text and "a note" in figure.layout.title.text
    assert any(trace.name == "first-token budget" for trace in figure.data)


async def test_a_ticked_box_activates_a_release_that_answers_follow(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("websocket_url", "token", "aws_url"):
        monkeypatch.setenv(f"MANGA_{name.upper()}", stack.addresses[name])
    for name in ("aws_access_key_id", "aws_secret_access_key"):
        monkeypatch.setenv(name.upper(), stack.addresses[name])
    lab = Laboratory(release_refresh_s=0.1)
    with pytest.raises(ReleaseError, match="warm_pool"):
        switch_off(lab, ["no such thing"])
    off = await asyncio.to_thread(switch_off, lab, OPTIMISATIONS)
    try:
        await _until_followed(lab, off.number)
        panel = switches(lab)
        boxes = {box.description: box for box in panel.children}
        assert len(boxes) == 10 and not any(box.value for box in boxes.values())
        boxes["status messages"].value = True
        await _until_followed(lab, off.number + 1)
        async with lab.client() as client:
            reply = await client.answer(QUESTIONS[1])
        assert type(reply.frames[0].frame).__name__ == "Status"
    finally:
        on = await asyncio.to_thread(switch_off, lab, [])
        await _until_followed(lab, on.number)
        lab.close()


async def _until_followed(lab: Laboratory, number: int) -> None:
    async with asyncio.timeout(15), lab.client() as client:
        while True:
            reply = await client.answer("Hello", intent="greeting")
            if reply.metadata is not None and reply.metadata.release == number:
                return
