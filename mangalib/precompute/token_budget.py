"""Token budgets that hold whoever spends: reserved in Redis before a model is asked, settled by what it really took.

A reservation is an upper bound (no token is shorter than a byte), so that neither a session's budget nor that of any
sixty minutes is ever exceeded, by however many orchestrators together.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import msgspec
from redis.asyncio import Redis

from mangalib.aws import ClaudeRequest

_FRAMING_TOKENS = 32
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
    """Tokens that are set aside until they are settled."""

    minute: int
    tokens: int
    owner: str


class Budget:
    """One purse: so many tokens in any sixty minutes over all owners, and so many for each owner within a day."""

    def __init__(self, redis: Redis, purse: str, *, hour_tokens: int, owner_tokens: int) -> None:
        self._redis: Any = redis  # its types do not know that answers are bytes here
        self._purse = purse
        self._hour_tokens = hour_tokens
        self._owner_tokens = owner_tokens

    async def reserve(self, owner: str, request: ClaudeRequest) -> Reservation | None:
        """Set aside what ``request`` may cost at most; ``None`` when that is more than is left. Raises ``RedisError``."""
        tokens = at_most(request)
        minute = int(time.time() // 60)
        keys = (self._hour_key, self._owner_key(owner))
        granted = await self._redis.eval(
            _RESERVE, 2, *keys, minute, tokens, self._hour_tokens, self._owner_tokens, 24 * 3600
        )
        return Reservation(minute, tokens, owner) if granted else None

    async def settle(self, reservation: Reservation, tokens: int) -> None:
        """It took ``tokens`` in the end; the rest is free again."""
        unused = max(0, reservation.tokens - tokens)
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hincrby(self._hour_key, str(reservation.minute), -unused)
            pipe.incrby(self._owner_key(reservation.owner), -unused)
            await pipe.execute()

    async def spent(self) -> int:
        """Tokens spent or set aside in the last sixty minutes."""
        oldest = int(time.time() // 60) - 60
        minutes = await self._redis.hgetall(self._hour_key)
        return sum(int(tokens) for minute, tokens in minutes.items() if int(minute) > oldest)

    @property
    def _hour_key(self) -> str:
        return f"budget:{{{self._purse}}}:hour"

    def _owner_key(self, owner: str) -> str:
        return f"budget:{{{self._purse}}}:{owner}"


def at_most(request: ClaudeRequest) -> int:
    """Tokens that a request can cost at most, in and out."""
    return len(msgspec.json.encode(request)) + _FRAMING_TOKENS + request.max_tokens
