"""Answers as tables: each frame, what is on the screen at a moment, and where the milliseconds went."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from mangalib.client import Reply
from mangalib.protocol import Card, Chunk, Done, Error, Status
from mangalib.settings import Settings

THINKING = "Thinking..."
SCREEN_CHARS = 44


def frames_table(reply: Reply) -> pd.DataFrame:
    """One row a frame: ``seq``, ``at_ms`` since the query was sent, ``type`` and ``shows``, in order."""
    return pd.DataFrame(
        [
            {"seq": frame.seq, "at_ms": at_ms, "type": _kind(frame), "shows": _shows(frame)}
            for at_ms, frame in _of(reply)
        ]
    )


def characters_over_time(reply: Reply) -> pd.DataFrame:
    """How many characters of the answer are on the screen: ``at_ms`` and ``characters``, a step a frame."""
    rows, shown = [{"at_ms": 0.0, "characters": 0}], 0
    for at_ms, frame in _of(reply):
        if isinstance(frame, Chunk):
            shown += len(frame.text)
        rows.append({"at_ms": at_ms, "characters": shown})
    return pd.DataFrame(rows)


def screen_at(reply: Reply, moments_ms: Sequence[float]) -> pd.DataFrame:
    """What a person sees at each moment: the answer's last words so far, else the status, else that it is thinking."""
    rows = []
    for moment in moments_ms:
        seen = [frame for at_ms, frame in _of(reply) if at_ms <= moment]
        text = "".join(frame.text for frame in seen if isinstance(frame, Chunk))
        status = next((frame.message for frame in reversed(seen) if isinstance(frame, Status)), THINKING)
        complete = any(isinstance(frame, Done) for frame in seen)
        words = text if len(text) <= SCREEN_CHARS else "…" + text[1 - SCREEN_CHARS :]
        phase = "complete" if complete else "streaming" if text else "context" if seen else "instant"
        rows.append({"moment_ms": moment, "phase": phase, "characters": len(text), "on screen": words or status})
    return pd.DataFrame(rows)


# A stage is what lies between two marks of an answer's timeline.
_SIMPLE_STAGES = {
    "classify the intent": ("received", "classified"),
    "choose the model": ("classified", "routed"),
    "ask the cache": ("routed", "cache"),
    "assemble the prompt": ("fan_out", "prompt"),
    "first token (Haiku)": ("model_asked", "first_token"),
}
_RETRIEVAL_STAGES = {
    "classify the intent": ("received", "classified"),
    "choose the model": ("classified", "routed"),
    "ask the cache": ("routed", "cache"),
    "session and profile": ("routed", "customer"),
    "k-NN, top 5": ("routed", "knn"),
    "assemble the prompt": ("fan_out", "prompt"),
    "first token (Sonnet)": ("model_asked", "first_token"),
}
FRAME_STAGE = "to and from the client"


def measured_stages(replies: Sequence[Reply], *, retrieval: bool) -> pd.DataFrame:
    """Median over answers of each stage: ``stage``, ``start_ms``, ``duration_ms``, in the order of the path.

    Times are the server's own, since the query was received; the last stage is what the client waited beyond them.
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


def budgeted_stages(settings: Settings, *, retrieval: bool) -> pd.DataFrame:
    """The specification's plan for the same stages, in the same columns; each begins when what it needs is there."""
    intent, choice, cache = settings.intent_budget_ms, settings.model_choice_budget_ms, settings.cache_budget_ms
    routed = intent + choice
    rows = [
        ("classify the intent", 0.0, intent),
        ("choose the model", intent, choice),
        ("ask the cache", routed, cache),
    ]
    if retrieval:
        looked_up = routed + settings.knn_budget_ms
        prompted = looked_up + settings.prompt_budget_ms
        first = settings.sonnet_first_token_budget_ms
        rows += [
            ("session and profile", routed, settings.profile_budget_ms),
            ("k-NN, top 5", routed, settings.knn_budget_ms),
            ("assemble the prompt", looked_up, settings.prompt_budget_ms),
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


def _of(reply: Reply) -> list[tuple[float, Status | Chunk | Card | Done | Error]]:
    return [(at, frame) for at, frame in reply.frames if isinstance(frame, Status | Chunk | Card | Done | Error)]


def _kind(frame: Status | Chunk | Card | Done | Error) -> str:
    return type(frame).__name__.lower()


def _shows(frame: Status | Chunk | Card | Done | Error) -> str:
    match frame:
        case Chunk():
            return frame.text
        case Card():
            return f"[{frame.card.title}]"
        case Done():
            return f"({frame.metadata.tokens} tokens, {frame.metadata.source})"
        case _:
            return frame.message
