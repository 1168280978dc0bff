"""Pre-computation as the serving side sees it: one narrow interface."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from mangalib.domain import Intent, Manga, Release
from mangalib.nlu import ParsedQuestion


@dataclass(frozen=True)
class QueryContext:
    """A question, by whom and in which session, under which release."""

    customer: str
    session_id: str
    question: ParsedQuestion
    release: Release


class PrecomputedAnswer(Protocol):
    """An answer that exists, or is being generated right now. ``titles`` are those it depends on, as they are now, where that is
    known."""

    source: str
    intent: Intent
    model_id: str
    titles: dict[str, Manga]

    def pieces(self) -> AsyncGenerator[str, None]:
        """The text as it comes; raises ``MangaError`` when generating it fails."""
        ...

    def tokens(self) -> tuple[int, int]:
        """Output and input tokens that were spent now, 0 for a stored answer; known after the last piece."""
        ...


@dataclass(frozen=True)
class CompletedAnswer:
    """An answer as its customer received it. ``tokens`` are input and output tokens together."""

    text: str
    source: str
    model_id: str
    tokens: int
    total_ms: float
    had_history: bool


class Precomputed(Protocol):
    """No method raises for a failure of pre-computation: the answer is then generated live."""

    async def find(self, context: QueryContext) -> PrecomputedAnswer | None:
        """A stored answer that is still right, or one that is being generated."""
        ...

    async def titles(self, manga_ids: list[str]) -> dict[str, Manga]:
        """These titles with current price and stock; unknown ones are omitted."""
        ...

    def on_first_token(self, context: QueryContext, titles: list[str]) -> None:
        """The first token of an answer was sent; ``titles`` are the ids of those that were retrieved for it."""
        ...

    def on_completed(self, context: QueryContext, completed: CompletedAnswer) -> None:
        """The answer is complete."""
        ...

    def on_session_closed(self, customer: str, session_id: str) -> None:
        """The session is over."""
        ...
