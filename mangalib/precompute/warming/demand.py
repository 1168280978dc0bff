"""What is asked for, counted so that what was asked lately counts more.

In Redis by forward decay (Cormode, Shkapenyuk, Srivastava and Xu 2009): an event at time t adds 2^((t - epoch) /
half-life), so that nothing must be aged; from time to time the epoch is moved. From logs as tables, for what follows
the hour or the customer's segment.
"""

from __future__ import annotations

import time
from typing import Any

import pandas as pd
from redis.asyncio import Redis

from mangalib.errors import DataError

_COUNTS, _EPOCH = "demand:counts", "demand:epoch"
_MOVE_AFTER_HALF_LIVES = 64.0
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
    """Needs by decayed demand. Methods raise ``RedisError`` when Redis cannot be asked."""

    def __init__(self, redis: Redis, *, half_life_h: float) -> None:
        self._redis: Any = redis  # its types do not know that answers are bytes here
        self._half_life_s = half_life_h * 3600

    async def asked(self, need: str, *, at_s: float | None = None) -> None:
        """Count one question for ``need``."""
        now_s = time.time() if at_s is None else at_s
        await self._redis.eval(_ADD, 2, _COUNTS, _EPOCH, now_s, self._half_life_s, need, _MOVE_AFTER_HALF_LIVES)

    async def most_wanted(self, count: int) -> list[str]:
        """The needs with the highest demand, the highest first."""
        return [need.decode() for need in await self._redis.zrevrange(_COUNTS, 0, count - 1)]

    async def wanted(self, need: str, among: int) -> bool:
        """Whether ``need`` is among the most wanted."""
        rank = await self._redis.zrevrank(_COUNTS, need)
        return rank is not None and rank < among


def by_hour(log: pd.DataFrame, *, time_zone: str = "Asia/Tokyo") -> pd.DataFrame:
    """Questions about each title in each hour of the day: ``hour, entity, share`` (of that hour's), and ``per_day``.

    ``log`` has ``at`` (UTC) and ``entity``.
    """
    asked = _with_titles(log)
    local = asked["at"].dt.tz_convert(time_zone)
    days = max(1, local.dt.date.nunique())
    counts = asked.groupby([local.dt.hour.rename("hour"), "entity"]).size().rename("count").reset_index()
    counts["share"] = counts["count"] / counts.groupby("hour")["count"].transform("sum")
    counts["per_day"] = counts["count"] / days
    return counts.sort_values(["hour", "count"], ascending=[True, False], ignore_index=True)


def by_segment(log: pd.DataFrame) -> pd.DataFrame:
    """Questions about each title by customers of each segment: ``segment, entity, share``; ``log`` also has ``segment``."""
    asked = _with_titles(log)
    if "segment" not in asked:
        raise DataError("no column segment; expected the customer's segment to prefetch by")
    counts = asked.groupby(["segment", "entity"]).size().rename("count").reset_index()
    counts["share"] = counts["count"] / counts.groupby("segment")["count"].transform("sum")
    return counts.sort_values(["segment", "count"], ascending=[True, False], ignore_index=True)


def decayed(log: pd.DataFrame, at: pd.Timestamp, *, half_life_h: float) -> pd.Series[float]:
    """Demand for each title at a time, the highest first, from a log's ``at`` and ``entity``."""
    asked = _with_titles(log)
    asked = asked[asked["at"] <= at]
    age_h = (at - asked["at"]).dt.total_seconds() / 3600
    weights = pd.Series(2.0 ** (-age_h / half_life_h), index=asked.index)
    return weights.groupby(asked["entity"]).sum().sort_values(ascending=False)


def _with_titles(log: pd.DataFrame) -> pd.DataFrame:
    missing = [name for name in ("at", "entity") if name not in log]
    if missing:
        raise DataError(f"no column {', '.join(missing)}; expected at and entity")
    return log[log["entity"].notna() & (log["entity"] != "")]
