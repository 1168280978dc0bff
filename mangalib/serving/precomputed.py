"""Answers that are there before they are asked for, as the serving side sees them: one narrow seam to pre-computation."""

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
        """The text as it comes; raises ``MangaError`` when its making fails."""
        ...

    def tokens(self) -> tuple[int, int]:
        """Output and input tokens that this answer cost now, 0 where it was made before; known after the last piece."""
        ...


@dataclass(frozen=True)
class CompletedAnswer:
    """What a customer was told."""

    text: str
    source: str
    model_id: str
    tokens: int
    total_ms: float
    had_history: bool


class Precomputed(Protocol):
    """Pre-computation. None of the methods raises for what goes wrong with it: then there is no answer ahead."""

    async def find(self, context: QueryContext) -> PrecomputedAnswer | None:
        """The answer to that question, if there is one that is still right."""
        ...

    async def titles(self, manga_ids: list[str]) -> dict[str, Manga]:
        """These titles as they are now, price and stock; those that are not known are left out."""
        ...

    def on_first_token(self, context: QueryContext, titles: list[str]) -> None:
        """The first word of an answer is out, which was made with these titles (ids): time to think of what comes next."""
        ...

    def on_completed(self, context: QueryContext, completed: CompletedAnswer) -> None:
        """The answer is whole."""
        ...

    def on_session_closed(self, customer: str, session_id: str) -> None:
        """The session is over."""
        ...
