"""Token budgets shared by all orchestrators: reserved in Redis before a model is asked, settled at the actual usage.

A reservation is an upper bound (no token is shorter than a byte), so neither the budget of an owner nor that of any sixty
minutes is ever exceeded.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import msgspec
from redis.asyncio import Redis

from mangalib.aws import ClaudeRequest

_OVERHEAD_TOKENS = 32
_RESERVE = """
local spent, minute = 0, tonumber(ARGV[1])
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  if tonumber(fields[i]) <= minute - 60 then redis.call('HDEL', KEYS[1], fields[i])
  else spent = spent + tonumber(fields[i + 1]) end
end
local own = tonumber(redis.call('GET', KEYS[2]) or '0')
if spent + ARGV[2] > tonumber(ARGV[3]) or own + ARGV[2] > tonumber(ARGV[4]) then return 0 end
redis.call('HINCRBY', KEYS[1], ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], 3700)
redis.call('INCRBY', KEYS[2], ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[5])
return 1
"""


@dataclass(frozen=True)
class Reservation:
    """Tokens reserved until :meth:`TokenBudget.settle`."""

    minute: int
    tokens: int
    owner: str


class TokenBudget:
    """``hour_tokens`` in any sixty minutes over all owners, and ``owner_tokens`` for each owner in a day.

    Methods raise ``RedisError``.
    """

    def __init__(self, redis: Redis, name: str, *, hour_tokens: int, owner_tokens: int) -> None:
        self._redis: Any = redis  # redis-py's types do not know that answers are bytes here
        self._name = name
        self._hour_tokens = hour_tokens
        self._owner_tokens = owner_tokens

    async def reserve(self, owner: str, request: ClaudeRequest) -> Reservation | None:
        """Reserve the most that ``request`` can cost; ``None`` when less than that is left."""
        tokens = tokens_at_most(request)
        minute = int(time.time() // 60)
        keys = (self._hour_key, self._owner_key(owner))
        granted = await self._redis.eval(
            _RESERVE, 2, *keys, minute, tokens, self._hour_tokens, self._owner_tokens, 24 * 3600
        )
        return Reservation(minute, tokens, owner) if granted else None

    async def settle(self, reservation: Reservation, tokens: int) -> None:
        """Release what a request that used ``tokens`` had reserved beyond that."""
        unused = max(0, reservation.tokens - tokens)
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hincrby(self._hour_key, str(reservation.minute), -unused)
            pipe.incrby(self._owner_key(reservation.owner), -unused)
            await pipe.execute()

    @property
    def _hour_key(self) -> str:
        return f"budget:{{{self._name}}}:hour"

    def _owner_key(self, owner: str) -> str:
        return f"budget:{{{self._name}}}:{owner}"


def tokens_at_most(request: ClaudeRequest) -> int:
    """An upper bound of a request's input and output tokens."""
    return len(msgspec.json.encode(request)) + _OVERHEAD_TOKENS + request.max_tokens
