"""The shop's facts as they are now: of titles in Redis, kept by whatever changes the catalogue, and of orders in DynamoDB.

An answer is served only when all that it depends on is known and unchanged.
"""

from __future__ import annotations

from typing import Any

import msgspec
from redis.asyncio import Redis

from mangalib.domain import Manga
from mangalib.precompute.generated_answer import ORDERS, GeneratedAnswer, facts_of, fingerprint
from mangalib.serving import CustomerData

_TITLES = "facts:titles"


class Facts:
    """Current facts. All methods raise ``RedisError`` when Redis cannot be asked."""

    def __init__(self, redis: Redis, customers: CustomerData) -> None:
        self._redis: Any = redis  # its types do not know that answers are bytes here
        self._customers = customers

    async def titles(self, manga_ids: list[str]) -> dict[str, Manga]:
        """The titles as they are now; those that are not known are left out."""
        if not manga_ids:
            return {}
        found = await self._redis.hmget(_TITLES, manga_ids)
        titles = (msgspec.json.decode(value, type=Manga) for value in found if value is not None)
        return {title.manga_id: title for title in titles}

    async def depended_on(self, manga_ids: list[str], customer: str | None) -> dict[str, str]:
        """Fingerprints for an answer that is about to be made."""
        now = {manga_id: facts_of(title) for manga_id, title in (await self.titles(manga_ids)).items()}
        if customer is not None:
            now[ORDERS] = fingerprint(await self._customers.orders(customer))
        return now

    async def still_hold(self, prepared: GeneratedAnswer, customer: str) -> bool:
        """Whether everything that an answer depends on is as it was."""
        wanted = prepared.depends
        titles = [name for name in wanted if name != ORDERS]
        now = await self.depended_on(titles, customer if ORDERS in wanted else None)
        return now == wanted


async def publish_facts(redis: Redis, titles: list[Manga]) -> None:
    """What is true of these titles from now on."""
    if titles:
        await redis.hset(_TITLES, mapping={title.manga_id: msgspec.json.encode(title) for title in titles})
