"""Cards beside an answer: a title as soon as it stands in the text, its price and purchase link when the text is whole.

A pure machine like the streaming one: text in, titles out. What it emits follows from the text alone, so that an answer
that was cut off goes on with its cards where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from mangalib.domain import Catalogue, Intent, Manga
from mangalib.settings import AnswerSettings

# On these ways the customer asks about the titles that the question names; a recommendation is about other ones.
_ABOUT_WHAT_IS_NAMED = frozenset({Intent.PRODUCT_SEARCH, Intent.COMPARISON, Intent.DEFAULT})

# How many cards the screen keeps room for, before it is known what they will be.
PLACEHOLDERS = {Intent.RECOMMENDATION: 3, Intent.COMPARISON: 2, Intent.PRODUCT_SEARCH: 1}


class TitleCard(msgspec.Struct, tag_field="kind", tag="title", frozen=True):
    """A title that the answer is about, or has just named: enough to draw it and to ask for more."""

    manga_id: str
    title: str
    title_ja: str
    author: str
    genres: list[str]


class ProductCard(msgspec.Struct, tag_field="kind", tag="product", frozen=True):
    """The same title with what is needed to buy it; it takes the place of the title's first card."""

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

    ``named`` are those that the question names.
    """

    def __init__(self, catalogue: Catalogue, settings: AnswerSettings, named: Sequence[Manga]) -> None:
        self._catalogue = catalogue
        self._cards_max = settings.cards_max
        self._named = named
        self._left_out: set[str] = set()
        self._rest = ""
        self.titles: list[Manga] = []

    def about(self, intent: Intent) -> list[Manga]:
        """What can be shown before there is any text: the titles that the question names, where they are the subject."""
        if intent is Intent.RECOMMENDATION:
            self._left_out = {title.manga_id for title in self._named}
        return self._new(self._named) if intent in _ABOUT_WHAT_IS_NAMED else []

    def read(self, text: str, *, last: bool = False) -> list[Manga]:
        """Titles that the next piece of the answer has brought; one that may still become a longer one has to wait."""
        self._rest += text
        titles, self._rest = self._catalogue.settled(self._rest, last=last)
        return self._new(titles)

    def _new(self, titles: Iterable[Manga]) -> list[Manga]:
        known = self._left_out | {title.manga_id for title in self.titles}
        new = [title for title in titles if title.manga_id not in known][: self._cards_max - len(self.titles)]
        self.titles += new
        return new


def title_card(title: Manga) -> TitleCard:
    """What of a title is shown at once."""
    return TitleCard(title.manga_id, title.title, title.title_ja, title.author, title.genres.split(","))


def product_card(title: Manga, shop_url: str) -> ProductCard:
    """A title with its price, its stock and where it is bought."""
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
