"""Answers as tables: frames, the screen at given moments, milestones of rendering, and the stages before the first token."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from mangalib.client import Reply
from mangalib.protocol import Card, Chunk, Done, Error, ProductCard, Status, TitleCard
from mangalib.settings import BudgetSettings, StageSettings

THINKING = "Thinking..."
SCREEN_CHARS = 44


def frames(reply: Reply) -> pd.DataFrame:
    """One row per frame, in order: ``seq``, ``at_ms`` since the query was sent, ``type``, and what it ``shows``."""
    return pd.DataFrame(
        [
            {"seq": frame.seq, "at_ms": at_ms, "type": _type_name(frame), "shows": _visible_text(frame)}
            for at_ms, frame in _timed_frames(reply)
        ]
    )


def characters_over_time(reply: Reply) -> pd.DataFrame:
    """Characters of the answer on the screen: ``at_ms`` and ``characters``, one row per frame."""
    rows, shown = [{"at_ms": 0.0, "characters": 0}], 0
    for at_ms, frame in _timed_frames(reply):
        if isinstance(frame, Chunk):
            shown += len(frame.text)
        rows.append({"at_ms": at_ms, "characters": shown})
    return pd.DataFrame(rows)


def screen_at(reply: Reply, moments_ms: Sequence[float]) -> pd.DataFrame:
    """What the customer sees at each moment: the end of the text so far, else the status, else the typing indicator."""
    rows = []
    for moment in moments_ms:
        arrived = [frame for at_ms, frame in _timed_frames(reply) if at_ms <= moment]
        text = "".join(frame.text for frame in arrived if isinstance(frame, Chunk))
        status = next((frame.message for frame in reversed(arrived) if isinstance(frame, Status)), THINKING)
        complete = any(isinstance(frame, Done) for frame in arrived)
        words = text if len(text) <= SCREEN_CHARS else "…" + text[1 - SCREEN_CHARS :]
        phase = "complete" if complete else "streaming" if text else "context" if arrived else "instant"
        rows.append({"moment_ms": moment, "phase": phase, "characters": len(text), "on screen": words or status})
    return pd.DataFrame(rows)


def description_milestones(reply: Reply, settings: BudgetSettings) -> pd.DataFrame:
    """The rendering steps of a title's description: ``step, budget_ms, measured_ms``, the last NaN where a step did not occur.

    The purchase button is usable when the product card with its price and link has arrived.
    """
    product = _arrivals_ms(reply, ProductCard)[:1]
    return _milestones(
        ("status text", settings.instant_until_ms, _arrivals_ms(reply, Status)[:1]),
        ("title and author", settings.description_title_ms, _arrivals_ms(reply, TitleCard)[:1]),
        ("whole text", settings.description_text_ms, _arrivals_ms(reply, Chunk)[-1:]),
        ("product card", settings.description_card_ms, product),
        ("purchase button", settings.description_purchase_ms, product),
    )


def list_milestones(reply: Reply, settings: BudgetSettings) -> pd.DataFrame:
    """The rendering steps of a list of recommendations, in the columns of :func:`description_milestones`."""
    titles = _arrivals_ms(reply, TitleCard)
    return _milestones(
        ("introduction", settings.list_introduction_ms, _arrivals_ms(reply, Chunk)[:1]),
        ("first title", settings.list_first_title_ms, titles[:1]),
        ("second title", settings.list_second_title_ms, titles[1:2]),
        ("third title", settings.list_third_title_ms, titles[2:3]),
        ("product cards", settings.list_cards_ms, _arrivals_ms(reply, ProductCard)[-1:]),
    )


def _milestones(*steps: tuple[str, float, list[float]]) -> pd.DataFrame:
    rows = [(step, budget_ms, arrived[0] if arrived else math.nan) for step, budget_ms, arrived in steps]
    return pd.DataFrame(rows, columns=["step", "budget_ms", "measured_ms"])


def _arrivals_ms(reply: Reply, kind: type[Status | Chunk | TitleCard | ProductCard]) -> list[float]:
    return [
        at_ms
        for at_ms, frame in _timed_frames(reply)
        if isinstance(frame.card if isinstance(frame, Card) else frame, kind)
    ]


# Each stage lies between two marks of an answer's timeline.
_SIMPLE_STAGES = {
    "classify the intent": ("received", "classified"),
    "choose the model": ("classified", "routed"),
    "query the cache": ("routed", "cache"),
    "assemble the prompt": ("fan_out", "prompt"),
    "first token (Haiku)": ("model_asked", "first_token"),
}
_RETRIEVAL_STAGES = {
    "classify the intent": ("received", "classified"),
    "choose the model": ("classified", "routed"),
    "query the cache": ("routed", "cache"),
    "session and profile": ("routed", "customer"),
    "k-NN, top 5": ("routed", "knn"),
    "assemble the prompt": ("fan_out", "prompt"),
    "first token (Sonnet)": ("model_asked", "first_token"),
}
FRAME_STAGE = "to and from the client"


def measured_stages(replies: Sequence[Reply], *, retrieval: bool) -> pd.DataFrame:
    """Each stage's median over answers, in the order of the critical path: ``stage, start_ms, duration_ms``.

    Times are the server's, since it received the query; the last stage is how much longer the client waited.
    """
    stages = _RETRIEVAL_STAGES if retrieval else _SIMPLE_STAGES
    rows = []
    for reply in replies:
        assert reply.metadata is not None
        assert reply.first_token_ms is not None
        marks = reply.metadata.timeline
        for stage, (start, end) in stages.items():
            if start in marks and end in marks:
                rows.append({"stage": stage, "start_ms": marks[start], "duration_ms": marks[end] - marks[start]})
        outside_ms = reply.first_token_ms - marks["first_token"]
        rows.append({"stage": FRAME_STAGE, "start_ms": marks["first_token"], "duration_ms": outside_ms})
    order = [*stages, FRAME_STAGE]
    medians = pd.DataFrame(rows).groupby("stage")[["start_ms", "duration_ms"]].median()
    return medians.reindex([stage for stage in order if stage in medians.index]).reset_index()


def budgeted_stages(settings: StageSettings, *, retrieval: bool) -> pd.DataFrame:
    """The specification's budget for the same stages, in the same columns; each stage starts when its inputs are ready."""
    intent, choice, cache = settings.intent_budget_ms, settings.model_choice_budget_ms, settings.cache_budget_ms
    routed = intent + choice
    rows = [
        ("classify the intent", 0.0, intent),
        ("choose the model", intent, choice),
        ("query the cache", routed, cache),
    ]
    if retrieval:
        searched = routed + settings.knn_budget_ms
        prompted = searched + settings.prompt_budget_ms
        first = settings.sonnet_first_token_budget_ms
        rows += [
            ("session and profile", routed, settings.profile_budget_ms),
            ("k-NN, top 5", routed, settings.knn_budget_ms),
            ("assemble the prompt", searched, settings.prompt_budget_ms),
            ("first token (Sonnet)", prompted, first),
            (FRAME_STAGE, prompted + first, settings.frame_budget_ms),
        ]
    else:
        first = settings.haiku_first_token_budget_ms
        rows += [
            ("first token (Haiku)", routed + cache, first),
            (FRAME_STAGE, routed + cache + first, settings.frame_budget_ms),
        ]
    return pd.DataFrame(rows, columns=["stage", "start_ms", "duration_ms"])


def _timed_frames(reply: Reply) -> list[tuple[float, Status | Chunk | Card | Done | Error]]:
    return [(at, frame) for at, frame in reply.frames if isinstance(frame, Status | Chunk | Card | Done | Error)]


def _type_name(frame: Status | Chunk | Card | Done | Error) -> str:
    return type(frame).__name__.lower()


def _visible_text(frame: Status | Chunk | Card | Done | Error) -> str:
    match frame:
        case Chunk():
            return frame.text
        case Card():
            return f"[{frame.card.title}]"
        case Done():
            return f"({frame.metadata.tokens} tokens, {frame.metadata.source})"
        case _:
            return frame.message
