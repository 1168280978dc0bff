"""Warming: which answers to make before anyone asks, from what a log says of popularity, segments and the hour of the day.

Each programme spends a budget of its own. A share of the sessions never gets what was warmed, so that what each programme brings
can be measured against not having it.
"""

from __future__ import annotations

import hashlib
from typing import Any

import pandas as pd
from redis.asyncio import Redis

from mangalib.precompute.generated_answer import Need
from mangalib.precompute.warming import demand

POPULAR, SEGMENT, TIME_OF_DAY, TRENDING = "popular", "segment", "time_of_day", "trending"
PROGRAMS = (POPULAR, SEGMENT, TIME_OF_DAY, TRENDING)
_MEASURED = "warming:measured"


def held_out(session_id: str, share: float) -> bool:
    """Whether a session belongs to the share that is never served what was warmed; the same every time."""
    number = int.from_bytes(hashlib.sha256(session_id.encode()).digest()[:4], "big")
    return number < share * 2**32


def popular(log: pd.DataFrame, count: int, language: str = "en") -> list[Need]:
    """Replay: the titles asked for most in the log, as questions about them."""
    titles = demand.by_hour(log).groupby("entity")["count"].sum().sort_values(ascending=False)
    return [_need(str(title), language) for title in titles.index[:count]]


def for_segments(log: pd.DataFrame, count: int, language: str = "en") -> list[Need]:
    """Prefetch: for each segment of customers its most wanted titles, without repetition."""
    table = demand.by_segment(log).groupby("segment", sort=True).head(count)
    return [_need(title, language) for title in dict.fromkeys(table["entity"])]


def before_hour(log: pd.DataFrame, hour: int, count: int, language: str = "en") -> list[Need]:
    """What is wanted in an hour of the Japanese day more than in the others, the most wanted first."""
    table = demand.by_hour(log)
    here = table[table["hour"] == hour].set_index("entity")
    usual = table.groupby("entity")["per_day"].sum() / 24
    lift = (here["per_day"] - usual.reindex(here.index)).sort_values(ascending=False)
    return [_need(str(title), language) for title in lift[lift > 0].index[:count]]


class Measured:
    """What warming brought, counted in Redis: questions, hits and milliseconds, by programme and for the held-out sessions."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis  # its types do not know that answers are bytes here

    async def count(self, *, warmed: bool, program: str, total_ms: float, tokens: int) -> None:
        """One answer to a question that warming could have met."""
        arm = (program or "missed") if warmed else "held_out"
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.hincrby(_MEASURED, f"{arm}:answers", 1)
            pipe.hincrbyfloat(_MEASURED, f"{arm}:total_ms", total_ms)
            pipe.hincrby(_MEASURED, f"{arm}:tokens", tokens)
            await pipe.execute()

    async def table(self) -> pd.DataFrame:
        """One row an arm: ``arm, answers, total_ms`` (mean), ``saved_ms`` (against the held-out sessions), ``tokens``."""
        found = {name.decode(): float(value) for name, value in (await self._redis.hgetall(_MEASURED)).items()}
        arms = sorted({name.split(":")[0] for name in found})
        rows = [
            {
                "arm": arm,
                "answers": int(found.get(f"{arm}:answers", 0)),
                "total_ms": found.get(f"{arm}:total_ms", 0.0) / max(1.0, found.get(f"{arm}:answers", 0)),
                "tokens": int(found.get(f"{arm}:tokens", 0)),
            }
            for arm in arms
        ]
        table = pd.DataFrame(rows, columns=["arm", "answers", "total_ms", "tokens"])
        without = table.loc[table["arm"] == "held_out", "total_ms"]
        table["saved_ms"] = (float(without.iloc[0]) if len(without) else float("nan")) - table["total_ms"]
        return table


def _need(title: str, language: str) -> Need:
    return Need("product_inquiry", title, language)
