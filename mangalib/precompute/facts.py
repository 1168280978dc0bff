"""The shop's current facts: titles in Redis, published by whatever changes the catalogue, and orders in DynamoDB.

A generated answer is served only while everything that it depends on is known and unchanged.
"""

from __future__ import annotations

from typing import Any

import msgspec
from redis.asyncio import Redis

from mangalib.domain import Manga
from mangalib.precompute.generated_answer import ORDERS, GeneratedAnswer, fingerprint, title_fingerprint
from mangalib.serving import CustomerData

_TITLES = "facts:titles"


class Facts:
    """Current facts. All methods raise ``RedisError`` when Redis does not answer."""

    def __init__(self, redis: Redis, customers: CustomerData) -> None:
        self._redis: Any = redis  # redis-py's types do not know that answers are bytes here
        self._customers = customers

    async def titles(self, manga_ids: list[str]) -> dict[str, Manga]:
        """Current facts of titles; unknown ones are left out."""
        if not manga_ids:
            return {}
        found = await self._redis.hmget(_TITLES, manga_ids)
        titles = (msgspec.json.decode(value, type=Manga) for value in found if value is not None)
        return {title.manga_id: title for title in titles}

    async def fingerprints(self, manga_ids: list[str], customer: str | None) -> dict[str, str]:
        """Current fingerprints of titles, and of the orders of ``customer`` if given; as in ``GeneratedAnswer.depends``."""
        current = {manga_id: title_fingerprint(title) for manga_id, title in (await self.titles(manga_ids)).items()}
        if customer is not None:
            current[ORDERS] = fingerprint(await self._customers.orders(customer))
        return current

    async def unchanged_for(self, answer: GeneratedAnswer, customer: str) -> bool:
        """Whether everything that ``answer`` depends on is unchanged."""
        titles = [name for name in answer.depends if name != ORDERS]
        current = await self.fingerprints(titles, customer if ORDERS in answer.depends else None)
        return current == answer.depends


async def publish_facts(redis: Redis, titles: list[Manga]) -> None:
    """Set the current facts of these titles."""
    if titles:
        await redis.hset(_TITLES, mapping={title.manga_id: msgspec.json.encode(title) for title in titles})
