"""Timelines of what was sent, received and painted: measured by the browser, or by the Python client, which paints nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from mangalib.client import Client, Reply
from mangalib.domain import ROUTES, Intent
from mangalib.protocol import Card, Chunk, Done, Error, Status
from mangalib.settings import BudgetSettings

COLUMNS = (
    "request_id",
    "asked_at",
    "intent",
    "source",
    "event",
    "detail",
    "received_ms",
    "painted_ms",
    "animation_frames",
)
PAINTED, RECEIVED = "painted", "received"


def timeline_table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A table with the columns and types of a timeline, from rows with the fields of ``COLUMNS``."""
    table = pd.DataFrame(list(rows), columns=list(COLUMNS))
    return table.astype({"received_ms": float, "painted_ms": float, "animation_frames": "Int64"})


def received_timeline(reply: Reply, asked_at: datetime) -> pd.DataFrame:
    """The timeline of an answer that the Python client received; ``painted_ms`` is missing throughout."""
    metadata = reply.metadata
    about = {
        "request_id": reply.request_id,
        "asked_at": asked_at.isoformat(),
        "intent": metadata.intent if metadata else "",
        "source": metadata.source if metadata else "",
    }
    events = [("sent", "", 0.0)]
    for at_ms, frame in reply.frames:
        match frame:
            case Status():
                events.append(("status", frame.state, at_ms))
            case Card():
                events.append(("card", f"{type(frame.card).__struct_config__.tag} {frame.card.manga_id}", at_ms))
            case Chunk() if at_ms == reply.first_token_ms:
                events.append(("first_token", "", at_ms))
            case Done():
                events.append(("done", "", at_ms))
            case Error():
                events.append(("error", frame.code, at_ms))
    return timeline_table(
        [about | {"event": event, "detail": detail, "received_ms": at_ms} for event, detail, at_ms in events]
    )


async def received_conversation(client: Client, questions: Sequence[str]) -> pd.DataFrame:
    """Ask the questions one after another in one conversation; the concatenated :func:`received_timeline` of each."""
    tables = []
    async with client:
        for question in questions:
            asked_at = datetime.now(UTC)
            tables.append(received_timeline(await client.answer(question), asked_at))
    return pd.concat(tables, ignore_index=True)


def measured_as(timelines: Sequence[pd.DataFrame]) -> str:
    """``"painted"`` if a browser measured every timeline, else ``"received"``."""
    return PAINTED if all(bool(table["painted_ms"].notna().any()) for table in timelines) else RECEIVED


def milestones(timelines: dict[str, pd.DataFrame], settings: BudgetSettings) -> pd.DataFrame:
    """One row per question and milestone: ``chat, question`` (1, 2, ... in each chat), ``intent, milestone, at_ms, budget_ms``.

    Milestones are the first visible change, the first card, the first token, the last price and the end, where an answer
    has them. Times are those of painting if all timelines have them, else those of receipt.
    """
    column = f"{measured_as(list(timelines.values()))}_ms"
    rows = []
    for chat, table in timelines.items():
        for question, (_, answer) in enumerate(table.groupby("request_id", sort=False), start=1):
            intent = Intent(answer["intent"].iloc[0] or Intent.DEFAULT)
            for milestone, at_ms in _milestone_times(answer, column).items():
                budget_ms = _budget_ms(milestone, intent, settings)
                rows.append((chat, question, intent.value, milestone, at_ms, budget_ms))
    return pd.DataFrame(rows, columns=["chat", "question", "intent", "milestone", "at_ms", "budget_ms"])


def _milestone_times(answer: pd.DataFrame, column: str) -> dict[str, float]:
    shown = answer[(answer["event"] != "sent") & answer[column].notna()]
    products = shown[shown["detail"].str.startswith("product")]
    found = {
        "first sign": shown[column].min(),
        "first card": shown.loc[shown["event"] == "card", column].min(),
        "first token": shown.loc[shown["event"] == "first_token", column].min(),
        "last price": products[column].max(),
        "end": shown.loc[shown["event"].isin(["done", "error", "lost"]), column].max(),
    }
    return {milestone: float(at_ms) for milestone, at_ms in found.items() if pd.notna(at_ms)}


def _budget_ms(milestone: str, intent: Intent, settings: BudgetSettings) -> float:
    return {
        "first sign": settings.instant_until_ms,
        "first card": settings.description_title_ms,
        "first token": ROUTES[intent].first_token_budget_ms(settings),
        "last price": settings.list_cards_ms,
        "end": settings.whole_answer_budget_ms,
    }[milestone]
