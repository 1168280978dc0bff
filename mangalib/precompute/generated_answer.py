"""An answer made before it was asked for, and what must still hold for it to be right."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import AsyncGenerator, Iterator

import msgspec
from redis.exceptions import RedisError

from mangalib.aws import ClaudeRequest
from mangalib.domain import Intent, Manga

log = logging.getLogger(__name__)

PRECOMPUTED, TRENDING, SEMANTIC = "precomputed", "trending", "semantic_cache"
ORDERS = "orders"


class Need(msgspec.Struct, frozen=True):
    """What is asked for, apart from how: a topic, about a title or none, in a language. ``title`` is a manga id."""

    topic: str
    title: str
    language: str

    @property
    def key(self) -> str:
        """Names the need; no two needs share it."""
        return f"{self.topic}|{self.title}|{self.language}"

    @classmethod
    def of(cls, key: str) -> Need:
        """The need of a key."""
        return cls(*key.split("|"))


class GeneratedAnswer(msgspec.Struct, frozen=True):
    """``depends`` is what the answer was made from: a title's id or ``orders``, and the fingerprint that this had.

    ``built_on`` is the fingerprint of prompt and model, empty for a text that people approved. Times are seconds since 1970.
    """

    text: str
    intent: Intent
    source: str
    model_id: str = ""
    tokens: int = 0
    request: ClaudeRequest = ClaudeRequest(0, [])
    depends: dict[str, str] = {}
    built_on: str = ""
    need: str = ""
    program: str = ""
    made_at_s: float = 0.0
    fresh_until_s: float = 0.0


class CachedAnswer:
    """A generated answer as it is served: in one piece, at no cost now. ``titles`` are those it depends on, as they are now."""

    def __init__(self, prepared: GeneratedAnswer, titles: dict[str, Manga]) -> None:
        self.prepared = prepared
        self.titles = titles
        self.source = prepared.source
        self.intent = prepared.intent
        self.model_id = prepared.model_id

    async def pieces(self) -> AsyncGenerator[str, None]:
        """The text."""
        yield self.prepared.text

    def tokens(self) -> tuple[int, int]:
        """Nothing is spent again."""
        return 0, 0


def fingerprint(*parts: object) -> str:
    """Short, and different when any part is."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False, default=str).encode()).hexdigest()[:16]


def facts_of(manga: Manga) -> str:
    """The fingerprint of everything that an answer may say of a title."""
    return fingerprint(*msgspec.structs.astuple(manga))


@contextlib.contextmanager
def kept_if_possible() -> Iterator[None]:
    """An answer that is made is served also when Redis cannot keep it; that is logged."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        log.warning("an answer is not kept: %s: %s", type(error).__name__, error)


def scoped(*parts: str) -> str:
    """A Redis key part for parts that people choose: no characters in them can make two scopes meet."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
