"""The titles as they are now, in Redis: written by whatever changes the catalogue.

An answer is served only while all that it depends on is known and unchanged.
"""

from __future__ import annotations

from typing import Any

import msgspec
from redis.asyncio import Redis

from mangalib.domain import Manga
from mangalib.precompute.generated_answer import facts_of

TITLES_KEY = "facts:titles"


class Facts:
    """Current facts. All methods raise ``RedisError`` when Redis cannot be asked."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis  # its types do not know that answers are bytes here

    async def titles(self, manga_ids: list[str]) -> dict[str, Manga]:
        """The titles as they are now; those that are not known are left out."""
        if not manga_ids:
            return {}
        found = await self._redis.hmget(TITLES_KEY, manga_ids)
        titles = (title_of(value) for value in found if value is not None)
        return {title.manga_id: title for title in titles}

    async def fingerprints(self, manga_ids: list[str]) -> dict[str, str]:
        """Of these titles as they are now."""
        return {manga_id: facts_of(title) for manga_id, title in (await self.titles(manga_ids)).items()}


def title_of(value: bytes) -> Manga:
    """A title as it is stored."""
    return msgspec.json.decode(value, type=Manga)


async def publish_facts(redis: Redis, titles: list[Manga]) -> None:
    """What is true of these titles from now on."""
    if titles:
        await redis.hset(TITLES_KEY, mapping={title.manga_id: msgspec.json.encode(title) for title in titles})
