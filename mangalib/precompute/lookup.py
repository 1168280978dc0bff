"""Reads stored answers, together with the facts they depend on, in one round trip to Redis."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from redis.asyncio import Redis

from mangalib.domain import Manga
from mangalib.precompute.facts import TITLES_KEY, decode_title
from mangalib.precompute.generated_answer import ORDERS, GeneratedAnswer
from mangalib.precompute.shared_answers import USED_KEY

# A script, since the titles to read are known only from the answer itself. A hit also counts as a use of the question.
_FETCH = """
local answer = redis.call('GET', KEYS[1])
if not answer then return {} end
if ARGV[1] ~= '' then redis.call('ZADD', KEYS[3], 'XX', ARGV[2], ARGV[1]) end
local titles = {}
for name in pairs(cjson.decode(answer)['depends'] or {}) do
  if name ~= ARGV[3] then titles[#titles + 1] = name end
end
return {answer, #titles > 0 and redis.call('HMGET', KEYS[2], unpack(titles)) or {}}
"""


class StoredKey(NamedTuple):
    """The Redis key of an answer, and the question (its ``exact_key``) that a hit counts as a use of."""

    key: str
    question: str = ""


class StoredWithFacts(NamedTuple):
    """A stored answer and the current facts of the titles it depends on; unknown titles are left out."""

    answer: GeneratedAnswer
    titles: dict[str, Manga]


class AnswerLookup:
    """Reads stored answers; raises ``RedisError`` when Redis does not answer."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis  # redis-py's types do not know that answers are bytes here

    async def fetch(
        self, keys: Sequence[StoredKey | None], *, lock: str = ""
    ) -> tuple[list[StoredWithFacts | None], bool]:
        """The answer under each key (``None`` where there is no key or no answer), and whether the key ``lock`` exists."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for stored in keys:
                if stored is not None:
                    pipe.eval(_FETCH, 3, stored.key, TITLES_KEY, USED_KEY, stored.question, repr(time.time()), ORDERS)
            if lock:
                pipe.exists(lock)
            replies = iter(await pipe.execute())
        answers = [None if stored is None else _decoded(next(replies)) for stored in keys]
        return answers, bool(lock and next(replies))


def _decoded(reply: list[Any]) -> StoredWithFacts | None:
    if not reply:
        return None
    titles = (decode_title(value) for value in reply[1] if value is not None)
    answer = msgspec.json.decode(reply[0], type=GeneratedAnswer)
    return StoredWithFacts(answer, {title.manga_id: title for title in titles})
