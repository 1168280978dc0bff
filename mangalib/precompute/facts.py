"""The current facts of titles, in Redis; published by whatever changes the catalogue.

A generated answer is served only while everything that it depends on is known and unchanged.
"""

from __future__ import annotations

from typing import Any

import msgspec
from redis.asyncio import Redis

from mangalib.domain import Manga
from mangalib.precompute.generated_answer import title_fingerprint

TITLES_KEY = "facts:titles"


class Facts:
    """Current facts. All methods raise ``RedisError`` when Redis does not answer."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis  # redis-py's types do not know that answers are bytes here

    async def titles(self, manga_ids: list[str]) -> dict[str, Manga]:
        """Current facts of titles; unknown ones are left out."""
        if not manga_ids:
            return {}
        found = await self._redis.hmget(TITLES_KEY, manga_ids)
        titles = (decode_title(value) for value in found if value is not None)
        return {title.manga_id: title for title in titles}

    async def fingerprints(self, manga_ids: list[str]) -> dict[str, str]:
        """Current fingerprints of titles, as in ``GeneratedAnswer.depends``."""
        return {manga_id: title_fingerprint(title) for manga_id, title in (await self.titles(manga_ids)).items()}


def decode_title(value: bytes) -> Manga:
    """A title from its stored form."""
    return msgspec.json.decode(value, type=Manga)


async def publish_facts(redis: Redis, titles: list[Manga]) -> None:
    """Set the current facts of these titles."""
    if titles:
        await redis.hset(TITLES_KEY, mapping={title.manga_id: msgspec.json.encode(title) for title in titles})
