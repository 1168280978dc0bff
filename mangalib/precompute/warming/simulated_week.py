"""A week of pre-computation, replayed from a log: what each programme would have made, brought and cost, hour by hour.

Every hour each programme orders answers about titles within its token budget, from what was asked before that hour
only. A question about a title is a hit while the title's answer is there; answers expire, and those in demand are
refreshed ahead of that. Of the sessions a share is held out and never served what was warmed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from mangalib.errors import DataError
from mangalib.precompute.warming import demand
from mangalib.precompute.warming.plans import (
    POPULAR,
    SEGMENT,
    TIME_OF_DAY,
    TRENDING,
    before_hour,
    for_segments,
    held_out,
)
from mangalib.settings import Settings

# Prompt and answer about a title, on the route with retrieval.
INPUT_TOKENS, OUTPUT_TOKENS = 450, 130


@dataclass
class _Kept:
    program: str
    until: pd.Timestamp


@dataclass(frozen=True)
class Week:
    """Tables: ``hours`` has ``hour, questions, hits, held_out, entries, tokens``; ``programs`` a row for each programme."""

    hours: pd.DataFrame
    programs: pd.DataFrame


@dataclass
class _State:
    kept: dict[str, _Kept] = field(default_factory=dict)
    spent: dict[str, int] = field(default_factory=dict)
    hits: dict[str, int] = field(default_factory=dict)


def simulate_week(log: pd.DataFrame, settings: Settings, *, hour_tokens: int) -> Week:
    """Replay a log (``session_id, at, entity``, perhaps ``segment``); each programme has ``hour_tokens`` an hour.

    Raises ``DataError`` when the log is too short to learn from.
    """
    asked = log[log["entity"].notna() & (log["entity"] != "")].sort_values("at")
    if asked.empty or asked["at"].max() - asked["at"].min() < pd.Timedelta(days=1):
        raise DataError(f"{len(asked)} questions about titles within less than a day; expected a day or more")
    state, rows = _State(), []
    begin = asked["at"].min().floor("D") + pd.Timedelta(days=1)
    for hour in pd.date_range(begin, asked["at"].max(), freq="h"):
        past = asked[asked["at"] < hour]
        tokens = _make(state, past, hour, settings, hour_tokens)
        here = asked[(asked["at"] >= hour) & (asked["at"] < hour + pd.Timedelta(hours=1))]
        hits, out = 0, 0
        for session_id, title in zip(here["session_id"], here["entity"], strict=True):
            if held_out(str(session_id), settings.held_out_share):
                out += 1
            elif title in state.kept:
                hits += 1
                program = state.kept[title].program
                state.hits[program] = state.hits.get(program, 0) + 1
        rows.append((hour, len(here), hits, out, len(state.kept), tokens))
    hours = pd.DataFrame(rows, columns=["hour", "questions", "hits", "held_out", "entries", "tokens"])
    return Week(hours, _summary(state, settings))


def _make(state: _State, past: pd.DataFrame, hour: pd.Timestamp, settings: Settings, hour_tokens: int) -> int:
    """Expire, refresh and order for one hour; returns the tokens spent."""
    each = INPUT_TOKENS + OUTPUT_TOKENS
    wanted = demand.decayed(past, hour, half_life_h=settings.trending_half_life_h)
    state.kept = {title: kept for title, kept in state.kept.items() if kept.until > hour}
    japanese_hour = int(hour.tz_convert("Asia/Tokyo").hour)
    count = hour_tokens // each
    plans = {
        TRENDING: [str(title) for title in wanted.index[: settings.trending_titles]],
        TIME_OF_DAY: [need.title for need in before_hour(past, japanese_hour, count)],
        SEGMENT: [need.title for need in for_segments(past, 3)] if "segment" in past else [],
        POPULAR: [str(title) for title in past["entity"].value_counts().index[:count]],
    }
    soon = hour + pd.Timedelta(seconds=settings.refresh_ahead_s)
    spent = 0
    for program, titles in plans.items():
        left = hour_tokens
        for title in titles:
            kept = state.kept.get(title)
            if left < each or (kept is not None and kept.until > soon):
                continue
            owner = kept.program if kept is not None else program
            until = hour + pd.Timedelta(seconds=settings.cache_stale_max_s)
            state.kept[title] = _Kept(owner, until)
            state.spent[program] = state.spent.get(program, 0) + each
            left, spent = left - each, spent + each
    return spent


def _summary(state: _State, settings: Settings) -> pd.DataFrame:
    usd = INPUT_TOKENS * settings.sonnet_input_usd_per_mtok + OUTPUT_TOKENS * settings.sonnet_output_usd_per_mtok
    usd_per_token = usd / 1e6 / (INPUT_TOKENS + OUTPUT_TOKENS)
    rows = []
    for program in (TRENDING, TIME_OF_DAY, SEGMENT, POPULAR):
        hits, tokens = state.hits.get(program, 0), state.spent.get(program, 0)
        saved_s = hits * settings.expected_trending_saving_ms / 1000
        cost = tokens * usd_per_token
        rows.append((program, hits, tokens, cost, saved_s, cost / saved_s if saved_s else float("nan")))
    return pd.DataFrame(rows, columns=["program", "hits", "tokens", "usd", "saved_s", "usd_per_second_saved"])
