"""Measures what warming brings: a share of the sessions is held out and never served warmed answers."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from redis.asyncio import Redis

if TYPE_CHECKING:
    import pandas as pd

_COUNTS = "warming:measured"


def held_out(session_id: str, share: float) -> bool:
    """Whether a session belongs to the held-out ``share``; always the same for one session."""
    number = int.from_bytes(hashlib.sha256(session_id.encode()).digest()[:4], "big")
    return number < share * 2**32


class WarmingMeasurement:
    """Answers to questions that warming can answer, counted in Redis by arm: a program, ``missed`` or ``held_out``."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis  # redis-py's types do not know that answers are bytes here

    async def count(self, *, warmed: bool, program: str, total_ms: float, tokens: int) -> None:
        """Count one answer; ``program`` is the one that generated it, if any."""
        arm = (program or "missed") if warmed else "held_out"
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.hincrby(_COUNTS, f"{arm}:answers", 1)
            pipe.hincrbyfloat(_COUNTS, f"{arm}:total_ms", total_ms)
            pipe.hincrby(_COUNTS, f"{arm}:tokens", tokens)
            await pipe.execute()

    async def table(self) -> pd.DataFrame:
        """One row an arm: ``arm, answers, total_ms`` (mean), ``saved_ms`` (against the held-out sessions), ``tokens``."""
        import pandas as pd

        counts = {name.decode(): float(value) for name, value in (await self._redis.hgetall(_COUNTS)).items()}
        arms = sorted({name.split(":")[0] for name in counts})
        rows = [
            {
                "arm": arm,
                "answers": int(counts.get(f"{arm}:answers", 0)),
                "total_ms": counts.get(f"{arm}:total_ms", 0.0) / max(1.0, counts.get(f"{arm}:answers", 0)),
                "tokens": int(counts.get(f"{arm}:tokens", 0)),
            }
            for arm in arms
        ]
        table = pd.DataFrame(rows, columns=["arm", "answers", "total_ms", "tokens"])
        without = table.loc[table["arm"] == "held_out", "total_ms"]
        table["saved_ms"] = (float(without.iloc[0]) if len(without) else float("nan")) - table["total_ms"]
        return table
