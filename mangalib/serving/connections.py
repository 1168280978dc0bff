"""The connections that one orchestrator serves, and their records in Redis for the orchestrators beside it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
from redis.asyncio import Redis

from mangalib.protocol import RateLimit, Session, encode

if TYPE_CHECKING:
    from mangalib.serving.answer import Answer


@dataclass
class ClientConnection:
    """One connection of a customer, and the answers that run on it."""

    connection_id: str
    customer: str
    session_id: str
    session: Session
    rate: RateLimit
    answers: dict[str, Answer] = field(default_factory=dict)
    closed: bool = False


class ConnectionRecord(msgspec.Struct, frozen=True):
    """What another orchestrator must know to take a connection over."""

    customer: str
    session_id: str


class ConnectionRecords:
    """Records by connection id. All methods raise ``RedisError`` or ``OSError``."""

    def __init__(self, redis: Redis, *, lifetime_s: float) -> None:
        self._redis = redis
        self._lifetime_s = int(lifetime_s)

    async def save(self, connection_id: str, record: ConnectionRecord) -> None:
        """Write the record; it expires when no connection can be that old."""
        await self._redis.set(_key(connection_id), encode(record), ex=self._lifetime_s)

    async def load(self, connection_id: str) -> ConnectionRecord | None:
        """The record, or ``None`` for a connection that was never accepted or is closed."""
        found = await self._redis.get(_key(connection_id))
        return None if found is None else msgspec.json.decode(found, type=ConnectionRecord)

    async def delete(self, connection_id: str) -> None:
        """The connection is closed."""
        await self._redis.delete(_key(connection_id))


def _key(connection_id: str) -> str:
    return "connection:" + hashlib.sha256(connection_id.encode()).hexdigest()
