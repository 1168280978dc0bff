"""What happens to an answer, told to its client: statuses, text and cards as frames, each once, and when it was.

An answer that was cut off goes on here with what its frames hold already: no status, card or piece of text comes twice.
"""

from __future__ import annotations

import asyncio
import logging
import time

from mangalib.domain import Intent, Manga, Release
from mangalib.protocol import (
    Card,
    CardDeck,
    Chunk,
    Done,
    Error,
    Metadata,
    ProductCard,
    Status,
    TitleCard,
    product_card,
    title_card,
)
from mangalib.serving.outbox import Outbox
from mangalib.serving.services import Services
from mangalib.serving.stream import StreamMachine

log = logging.getLogger(__name__)


class Framing:
    """Adds frames to a delivery. ``timeline`` holds what was marked, in ms since the question came."""

    def __init__(
        self,
        services: Services,
        release: Release,
        delivery: Outbox,
        machine: StreamMachine,
        question: str,
        request_id: str,
    ) -> None:
        self.timeline: dict[str, float] = {"received": 0.0}
        self._services = services
        self._settings = services.settings
        self._shows_statuses = release.optimisations.status_messages
        self._outbox = delivery
        self._machine = machine
        self._request_id = request_id
        self._deck = CardDeck(services.catalogue, services.settings, question)
        self._seen_statuses = {frame.state for frame in delivery.of(Status)}
        self._seen_cards = {(frame.card.manga_id, type(frame.card)) for frame in delivery.of(Card)}
        self._started_s = time.monotonic()

    # When

    def now_ms(self) -> float:
        """Milliseconds since the question came."""
        return self.at_ms(time.monotonic())

    def at_ms(self, moment_s: float) -> float:
        """A moment of the monotonic clock, in milliseconds since the question came."""
        return round((moment_s - self._started_s) * 1000, 2)

    def mark(self, name: str) -> None:
        """That is reached now."""
        self.timeline[name] = self.now_ms()

    # What

    def status(self, state: str, message: str, intent: str) -> None:
        """What is being done, where the release shows that and it was not said before."""
        if self._shows_statuses and state not in self._seen_statuses:
            self._outbox.add(Status(state, message, self._request_id, self._outbox.next_seq, intent))

    def text(self) -> None:
        """A piece of text, when there is one that should leave now, and the titles that it has brought."""
        if self._outbox.all_sent or self._machine.state.final:
            text = self._machine.take()
            if text is not None:
                self._outbox.add(Chunk(text, self._request_id, self._outbox.next_seq))
                self._show(self._deck.read(text))

    def begin_cards(self, intent: Intent) -> None:
        """What can be shown before the text; of an answer that goes on, also what its text so far has brought."""
        about = self._deck.about(intent)
        if self._shows_statuses:
            self._show(about)
        self._show(self._deck.read(self._machine.taken))

    async def products(self, retrieved: list[Manga]) -> None:
        """All titles again, in the same order, with their prices: the newest that are known."""
        self._show(self._deck.read("", last=True))
        known = {title.manga_id: title for title in retrieved}
        try:
            async with asyncio.timeout(self._settings.cache_budget_ms / 1000):
                known |= await self._services.ahead.titles([title.manga_id for title in self._deck.titles])
        except TimeoutError:
            log.warning("prices are those of the catalogue", extra={"request_id": self._request_id})
        for title in self._deck.titles:
            self._card(product_card(known.get(title.manga_id, title), self._settings.shop_url))

    def done(self, metadata: Metadata) -> None:
        """The answer is whole."""
        self._outbox.add(Done(metadata, self._request_id, self._outbox.next_seq))

    def error(self, code: str, message: str, retry_after_ms: int | None) -> None:
        """The answer ends here."""
        self._outbox.add(Error(code, message, self._request_id, self._outbox.next_seq, retry_after_ms))

    def _show(self, titles: list[Manga]) -> None:
        for title in titles:
            self._card(title_card(title))

    def _card(self, card: TitleCard | ProductCard) -> None:
        if (card.manga_id, type(card)) not in self._seen_cards:
            self._outbox.add(Card(card, self._request_id, self._outbox.next_seq))
