"""Answers generated before they are asked for: what they answer, and what must still hold for them to be right."""

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


class CanonicalQuestion(msgspec.Struct, frozen=True):
    """What is asked, however it is worded: a topic, about a title (a manga id) or none, in a language."""

    topic: str
    title: str
    language: str

    @property
    def key(self) -> str:
        """Unique to the question; see :meth:`from_key`."""
        return f"{self.topic}|{self.title}|{self.language}"

    @classmethod
    def from_key(cls, key: str) -> CanonicalQuestion:
        """The question that has this :attr:`key`."""
        return cls(*key.split("|"))


class GeneratedAnswer(msgspec.Struct, frozen=True):
    """An answer as it is stored.

    ``depends`` maps what the answer was generated from, title ids or ``orders``, to the fingerprint it had then;
    ``AnswerGenerator`` collects it.
    ``built_on`` is the fingerprint of prompt and model, empty for a text approved by people. ``need`` is the key of the
    :class:`CanonicalQuestion`, ``program`` the warming program that generated it. Times are seconds since 1970.
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
    fresh_until_s: float = 0.0


class CachedAnswer:
    """A stored answer as it is served: in one piece, at no further cost; ``titles`` are the current facts it depends on."""

    def __init__(self, answer: GeneratedAnswer, titles: dict[str, Manga]) -> None:
        self.source = answer.source
        self.intent = answer.intent
        self.model_id = answer.model_id
        self.titles = titles
        self._text = answer.text

    async def pieces(self) -> AsyncGenerator[str, None]:
        """The whole text."""
        yield self._text

    def tokens(self) -> tuple[int, int]:
        """No tokens: they were counted when the answer was generated."""
        return 0, 0


def fingerprint(*parts: object) -> str:
    """A short hash of all parts."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False, default=str).encode()).hexdigest()[:16]


def title_fingerprint(manga: Manga) -> str:
    """The fingerprint of everything that an answer may say about a title."""
    return fingerprint(*msgspec.structs.astuple(manga))


@contextlib.contextmanager
def storing_may_fail() -> Iterator[None]:
    """Log a failure of Redis in the block instead of raising it: a generated answer is served even if it is not stored."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        log.warning("generated answer not stored: %s: %s", type(error).__name__, error)


def scope_key(*parts: str) -> str:
    """Part of a Redis key for values that users choose: a hash, so no value can reach into another's scope."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
