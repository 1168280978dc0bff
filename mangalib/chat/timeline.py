"""What was sent, received and painted, as tables: the browser's own, or the Python client's, which paints nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from mangalib.client import Client, Reply
from mangalib.domain import ROUTES, Intent
from mangalib.protocol import Card, Chunk, Done, Error, Status
from mangalib.settings import Settings

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
    """Rows with the fields of ``COLUMNS`` as a table with their types."""
    table = pd.DataFrame(list(rows), columns=list(COLUMNS))
    return table.astype({"received_ms": float, "painted_ms": float, "animation_frames": "Int64"})


def received_timeline(reply: Reply, asked_at: datetime) -> pd.DataFrame:
    """An answer as the Python client got it, in the columns of the browser's timeline; ``painted_ms`` is missing throughout."""
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
    """Ask one question after the other in one conversation; all of :func:`received_timeline`."""
    tables = []
    async with client:
        for question in questions:
            asked_at = datetime.now(UTC)
            tables.append(received_timeline(await client.answer(question), asked_at))
    return pd.concat(tables, ignore_index=True)


def measured_as(timelines: Sequence[pd.DataFrame]) -> str:
    """``painted`` where every one of the tables comes from a screen, else ``received``."""
    return PAINTED if all(bool(table["painted_ms"].notna().any()) for table in timelines) else RECEIVED


def milestones(timelines: dict[str, pd.DataFrame], settings: Settings) -> pd.DataFrame:
    """One row a question and milestone: ``chat, question`` (1, 2, ... in each chat), ``intent, milestone, at_ms, budget_ms``.

    Milestones are the first sign of any kind, the first card, the first token, the last price and the end, as far as an
    answer has them; times are painted ones where all timelines have been measured on a screen.
    """
    column = f"{measured_as(list(timelines.values()))}_ms"
    rows = []
    for chat, table in timelines.items():
        for question, (_, answer) in enumerate(table.groupby("request_id", sort=False), start=1):
            intent = Intent(answer["intent"].iloc[0] or Intent.DEFAULT)
            for milestone, at_ms in _moments(answer, column).items():
                budget_ms = _budget_ms(milestone, intent, settings)
                rows.append((chat, question, intent.value, milestone, at_ms, budget_ms))
    return pd.DataFrame(rows, columns=["chat", "question", "intent", "milestone", "at_ms", "budget_ms"])


def _moments(answer: pd.DataFrame, column: str) -> dict[str, float]:
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


def _budget_ms(milestone: str, intent: Intent, settings: Settings) -> float:
    return {
        "first sign": settings.instant_until_ms,
        "first card": settings.description_title_ms,
        "first token": ROUTES[intent].first_token_budget_ms(settings),
        "last price": settings.list_cards_ms,
        "end": settings.whole_answer_budget_ms,
    }[milestone]
