"""Simulates warming on a log, hour by hour: what each program would have generated, brought and cost.

Every hour each program warms titles within its token budget, from what was asked before that hour only. A question about
a title is a hit while the title's answer is stored. Answers expire, and those in demand are refreshed before that. A share
of the sessions is held out and never served warmed answers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from mangalib.errors import DataError
from mangalib.precompute.warming import demand
from mangalib.precompute.warming.measurement import held_out
from mangalib.precompute.warming.plans import Program, before_hour, for_segments
from mangalib.settings import PrecomputeSettings

# Of one answer about a title, on the route with retrieval.
_INPUT_TOKENS, _OUTPUT_TOKENS = 450, 130
_ANSWER_TOKENS = _INPUT_TOKENS + _OUTPUT_TOKENS
_REPORTED_ORDER = (Program.TRENDING, Program.TIME_OF_DAY, Program.SEGMENT, Program.POPULAR)


@dataclass(frozen=True)
class SimulatedWeek:
    """Tables: ``hours`` has ``hour, questions, hits, held_out, entries, tokens``; ``programs`` has one row a program."""

    hours: pd.DataFrame
    programs: pd.DataFrame


@dataclass
class _StoredAnswer:
    program: str
    expires: pd.Timestamp


@dataclass
class _State:
    stored: dict[str, _StoredAnswer] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    hits: dict[str, int] = field(default_factory=dict)


def simulate_week(log: pd.DataFrame, settings: PrecomputeSettings, *, hour_tokens: int) -> SimulatedWeek:
    """Simulate on a log (``session_id, at, entity``, optionally ``segment``); each program has ``hour_tokens`` an hour.

    Raises ``DataError`` when the log covers less than a day.
    """
    asked = log[log["entity"].notna() & (log["entity"] != "")].sort_values("at")
    if asked.empty or asked["at"].max() - asked["at"].min() < pd.Timedelta(days=1):
        raise DataError(
            f"session log: {len(asked)} questions about titles within less than a day; expected at least a day"
        )
    state, rows = _State(), []
    begin = asked["at"].min().floor("D") + pd.Timedelta(days=1)
    for hour in pd.date_range(begin, asked["at"].max(), freq="h"):
        tokens = _warm(state, asked[asked["at"] < hour], hour, settings, hour_tokens)
        in_hour = asked[(asked["at"] >= hour) & (asked["at"] < hour + pd.Timedelta(hours=1))]
        hits, without = _serve(state, in_hour, settings.held_out_share)
        rows.append((hour, len(in_hour), hits, without, len(state.stored), tokens))
    hours = pd.DataFrame(rows, columns=["hour", "questions", "hits", "held_out", "entries", "tokens"])
    return SimulatedWeek(hours, _summary(state, settings))


def _serve(state: _State, questions: pd.DataFrame, held_out_share: float) -> tuple[int, int]:
    """Count hits by program; returns the hits, and the questions of held-out sessions."""
    hits, without = 0, 0
    for session_id, title in zip(questions["session_id"], questions["entity"], strict=True):
        if held_out(str(session_id), held_out_share):
            without += 1
        elif title in state.stored:
            hits += 1
            program = state.stored[title].program
            state.hits[program] = state.hits.get(program, 0) + 1
    return hits, without


def _warm(state: _State, past: pd.DataFrame, hour: pd.Timestamp, settings: PrecomputeSettings, hour_tokens: int) -> int:
    """Expire, refresh and generate for one hour; returns the tokens used."""
    state.stored = {title: answer for title, answer in state.stored.items() if answer.expires > hour}
    expiring_before = hour + pd.Timedelta(seconds=settings.refresh_ahead_s)
    expires = hour + pd.Timedelta(seconds=settings.cache_stale_max_s)
    used = 0
    for program, titles in _plans(past, hour, settings, hour_tokens // _ANSWER_TOKENS).items():
        left = hour_tokens
        for title in titles:
            stored = state.stored.get(title)
            if left < _ANSWER_TOKENS or (stored is not None and stored.expires > expiring_before):
                continue
            state.stored[title] = _StoredAnswer(stored.program if stored is not None else program, expires)
            state.tokens[program] = state.tokens.get(program, 0) + _ANSWER_TOKENS
            left, used = left - _ANSWER_TOKENS, used + _ANSWER_TOKENS
    return used


def _plans(
    past: pd.DataFrame, hour: pd.Timestamp, settings: PrecomputeSettings, count: int
) -> dict[Program, list[str]]:
    """The titles that each program would warm, in the order in which the programs act."""
    trending = demand.decayed_demand(past, hour, half_life_h=settings.trending_half_life_h)
    japanese_hour = int(hour.tz_convert("Asia/Tokyo").hour)
    return {
        Program.TRENDING: [str(title) for title in trending.index[: settings.trending_titles]],
        Program.TIME_OF_DAY: [question.title for question in before_hour(past, japanese_hour, count)],
        Program.SEGMENT: [question.title for question in for_segments(past, 3)] if "segment" in past else [],
        Program.POPULAR: [str(title) for title in past["entity"].value_counts().index[:count]],
    }


def _summary(state: _State, settings: PrecomputeSettings) -> pd.DataFrame:
    usd = _INPUT_TOKENS * settings.sonnet_input_usd_per_mtok + _OUTPUT_TOKENS * settings.sonnet_output_usd_per_mtok
    usd_per_token = usd / 1e6 / _ANSWER_TOKENS
    rows = []
    for program in _REPORTED_ORDER:
        hits, tokens = state.hits.get(program, 0), state.tokens.get(program, 0)
        saved_s = hits * settings.expected_trending_saving_ms / 1000
        cost = tokens * usd_per_token
        rows.append((program.value, hits, tokens, cost, saved_s, cost / saved_s if saved_s else float("nan")))
    return pd.DataFrame(rows, columns=["program", "hits", "tokens", "usd", "saved_s", "usd_per_second_saved"])
