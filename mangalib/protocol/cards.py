"""Cards beside an answer: a title as soon as the text names it, price and purchase link when the text is complete.

Pure: text in, titles out. The output depends on the text alone, so that a resumed answer continues its cards where it
stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from mangalib.domain import Catalogue, Intent, Manga
from mangalib.settings import AnswerSettings

# Intents whose subject is the titles that the question names; a recommendation is about other titles.
_ABOUT_NAMED_TITLES = frozenset({Intent.PRODUCT_SEARCH, Intent.COMPARISON, Intent.DEFAULT})

# The number of placeholders that the screen shows before the cards are known.
PLACEHOLDERS = {Intent.RECOMMENDATION: 3, Intent.COMPARISON: 2, Intent.PRODUCT_SEARCH: 1}


class TitleCard(msgspec.Struct, tag_field="kind", tag="title", frozen=True):
    """A title that the answer is about or has just named."""

    manga_id: str
    title: str
    title_ja: str
    author: str
    genres: list[str]


class ProductCard(msgspec.Struct, tag_field="kind", tag="product", frozen=True):
    """The same title with price, stock and purchase link; it replaces the title's first card."""

    manga_id: str
    title: str
    title_ja: str
    author: str
    genres: list[str]
    volumes: int
    price_usd: float
    stock: int
    url: str


class CardDeck:
    """The titles of one answer, each once, in the order in which they are named, ``cards_max`` at most.

    ``named`` are the titles that the question names.
    """

    def __init__(self, catalogue: Catalogue, settings: AnswerSettings, named: Sequence[Manga]) -> None:
        self._catalogue = catalogue
        self._cards_max = settings.cards_max
        self._named = named
        self._excluded: set[str] = set()
        self._unsettled = ""
        self.titles: list[Manga] = []

    def about(self, intent: Intent) -> list[Manga]:
        """The titles to show before there is any text: those that the question names, if they are its subject."""
        if intent is Intent.RECOMMENDATION:
            self._excluded = {title.manga_id for title in self._named}
        return self._new(self._named) if intent in _ABOUT_NAMED_TITLES else []

    def read(self, text: str, *, last: bool = False) -> list[Manga]:
        """The new titles after the next part of the answer; a title that may still become a longer one is held back."""
        self._unsettled += text
        titles, self._unsettled = self._catalogue.settled(self._unsettled, last=last)
        return self._new(titles)

    def _new(self, titles: Iterable[Manga]) -> list[Manga]:
        known = self._excluded | {title.manga_id for title in self.titles}
        new = [title for title in titles if title.manga_id not in known][: self._cards_max - len(self.titles)]
        self.titles += new
        return new


def title_card(title: Manga) -> TitleCard:
    """The card of a title, without price."""
    return TitleCard(title.manga_id, title.title, title.title_ja, title.author, title.genres.split(","))


def product_card(title: Manga, shop_url: str) -> ProductCard:
    """The card of a title with price, stock and purchase link."""
    return ProductCard(
        manga_id=title.manga_id,
        title=title.title,
        title_ja=title.title_ja,
        author=title.author,
        genres=title.genres.split(","),
        volumes=title.volumes,
        price_usd=title.price_usd,
        stock=title.stock,
        url=f"{shop_url.rstrip('/')}/manga/{title.manga_id}",
    )
