"""Demand for answers: how often they are asked for, with recent questions counting more.

In Redis by forward decay (Cormode, Shkapenyuk, Srivastava and Xu 2009): a question at time t adds 2^((t - epoch) /
half-life), so older counts need no update; the epoch is moved from time to time. From a log as a table, by hour of the day
or by customer segment.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from redis.asyncio import Redis

from mangalib.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

_COUNTS, _EPOCH = "demand:counts", "demand:epoch"
_EPOCH_HALF_LIVES_MAX = 64.0
_ADD = """
local epoch = tonumber(redis.call('GET', KEYS[2]))
if not epoch then epoch = tonumber(ARGV[1]); redis.call('SET', KEYS[2], ARGV[1]) end
local age = (tonumber(ARGV[1]) - epoch) / tonumber(ARGV[2])
if age > tonumber(ARGV[4]) then
  redis.call('ZUNIONSTORE', KEYS[1], 1, KEYS[1], 'WEIGHTS', tostring(2 ^ -age))
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '1e-6')
  redis.call('SET', KEYS[2], ARGV[1]); age = 0
end
redis.call('ZINCRBY', KEYS[1], tostring(2 ^ age), ARGV[3])
"""


class Demand:
    """Question keys by decayed demand. Methods raise ``RedisError`` when Redis does not answer."""

    def __init__(self, redis: Redis, *, half_life_h: float) -> None:
        self._redis: Any = redis  # redis-py's types do not know that answers are bytes here
        self._half_life_s = half_life_h * 3600

    async def count(self, question: str, *, at_s: float | None = None) -> None:
        """Count one request for the answer to ``question`` (a ``CanonicalQuestion.key``)."""
        now_s = time.time() if at_s is None else at_s
        await self._redis.eval(_ADD, 2, _COUNTS, _EPOCH, now_s, self._half_life_s, question, _EPOCH_HALF_LIVES_MAX)

    async def top(self, count: int) -> list[str]:
        """The questions with the highest demand, the highest first."""
        return [question.decode() for question in await self._redis.zrevrange(_COUNTS, 0, count - 1)]

    async def is_in_top(self, question: str, count: int) -> bool:
        """Whether ``question`` is among the ``count`` with the highest demand."""
        rank = await self._redis.zrevrank(_COUNTS, question)
        return rank is not None and rank < count


def by_hour(log: pd.DataFrame) -> pd.DataFrame:
    """Questions about each title in each hour of the day in Japan: ``hour, entity, count, per_day``.

    ``log`` has ``at`` (UTC) and ``entity``.
    """
    asked = _about_titles(log)
    local = asked["at"].dt.tz_convert("Asia/Tokyo")
    days = max(1, local.dt.date.nunique())
    counts = asked.groupby([local.dt.hour.rename("hour"), "entity"]).size().rename("count").reset_index()
    counts["per_day"] = counts["count"] / days
    return counts.sort_values(["hour", "count"], ascending=[True, False], ignore_index=True)


def by_segment(log: pd.DataFrame) -> pd.DataFrame:
    """Questions about each title by customers of each segment: ``segment, entity, count``.

    ``log`` has ``at``, ``entity`` and ``segment``.
    """
    asked = _about_titles(log)
    if "segment" not in asked:
        raise DataError(
            f"session log: no column segment; it has {', '.join(map(str, log))}; expected the customer's segment"
        )
    counts = asked.groupby(["segment", "entity"]).size().rename("count").reset_index()
    return counts.sort_values(["segment", "count"], ascending=[True, False], ignore_index=True)


def decayed_demand(log: pd.DataFrame, at: pd.Timestamp, *, half_life_h: float) -> pd.Series[float]:
    """Demand for each title at a time, the highest first, from a log's ``at`` and ``entity``."""
    asked = _about_titles(log)
    asked = asked[asked["at"] <= at]
    age_h = (at - asked["at"]).dt.total_seconds() / 3600
    import pandas as pd  # serving counts in Redis; only logs need pandas

    weights = pd.Series(2.0 ** (-age_h / half_life_h), index=asked.index)
    return weights.groupby(asked["entity"]).sum().sort_values(ascending=False)


def _about_titles(log: pd.DataFrame) -> pd.DataFrame:
    missing = [name for name in ("at", "entity") if name not in log]
    if missing:
        raise DataError(
            f"session log: no column {', '.join(missing)}; it has {', '.join(map(str, log))}; expected at and entity"
        )
    return log[log["entity"].notna() & (log["entity"] != "")]
