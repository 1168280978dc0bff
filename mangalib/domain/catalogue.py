"""The shop's catalogue, and its titles found in text."""

from __future__ import annotations

import csv
import re
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import msgspec

from mangalib.errors import DataError

# Titles that are also ordinary English words: they match only in the title's own spelling, capitals included.
_ORDINARY_WORDS = frozenset(
    [
        "akira",
        "basara",
        "blame!",
        "buddha",
        "days",
        "drifters",
        "emma",
        "erased",
        "historie",
        "innocent",
        "major",
        "mao",
        "mix",
        "monster",
        "nana",
        "orange",
        "phoenix",
        "ping",
        "pong",
        "real",
        "rough",
        "sanctuary",
        "sunny",
        "touch",
        "x",
    ]
)

# Where a title can start: not within an English word.
_STARTS = re.compile(r"(?<![0-9a-z])[!-~]|[^\x00-\x7f]")


class Manga(msgspec.Struct, frozen=True):
    """One series. ``price_usd`` (one volume) and ``stock`` (volumes) are simulated; everything else is real."""

    manga_id: str
    title: str
    title_ja: str
    author: str
    publisher: str
    genres: str
    first_year: int
    volumes: int
    status: str
    price_usd: float
    stock: int

    @property
    def description(self) -> str:
        """The text that is embedded and searched."""
        return f"{self.title} {self.title_ja} by {self.author}. {self.genres.replace(',', ', ')}. {self.first_year}."


class MarkedText(NamedTuple):
    """A text and its titles: in ``masked`` the word TITLE replaces each of them; ``titles`` contains each series once."""

    text: str
    masked: str
    titles: tuple[Manga, ...]


class Catalogue:
    """All series, by id, and a search for their titles in text."""

    def __init__(self, items: list[Manga]) -> None:
        self.items = items
        self.by_id = {item.manga_id: item for item in items}

    @classmethod
    def load(cls, path: Path) -> Catalogue:
        """Read ``catalogue.csv``; raises ``DataError`` naming the line and the field."""
        try:
            with path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from error
        items = []
        for line, row in enumerate(rows, start=2):
            try:
                items.append(msgspec.convert(row, Manga, strict=False))
            except msgspec.ValidationError as error:
                raise DataError(f"{path}, line {line}: {error}") from None
        return cls(items)

    @cached_property
    def _names(self) -> dict[str, list[tuple[str, str, Manga]]]:
        """Titles by their first two characters: (in lower case, as written, series), longest first."""
        names: dict[str, list[tuple[str, str, Manga]]] = {}
        for item in self.items:
            for name in {item.title} if item.title_ja.isascii() else {item.title, item.title_ja}:
                names.setdefault(_lower(name)[:2], []).append((_lower(name), name, item))
        for candidates in names.values():
            candidates.sort(key=lambda candidate: len(candidate[0]), reverse=True)
        return names

    def _find(self, text: str) -> list[tuple[int, int, Manga]]:
        """The titles in ``text`` as (start, end, series), left to right; of several that match, the longest."""
        found: list[tuple[int, int, Manga]] = []
        lowered = _lower(text)
        read = 0
        for start in _STARTS.finditer(lowered):
            at = start.start()
            if at < read:
                continue
            for key in (lowered[at : at + 2], lowered[at]):
                match = next((c for c in self._names.get(key, ()) if _matches_at(c, text, lowered, at)), None)
                if match is not None:
                    read = at + len(match[0])
                    found.append((at, read, match[2]))
                    break
        return found

    def mentioned(self, text: str) -> list[Manga]:
        """The series whose English or Japanese title occurs in ``text``, in order, each once."""
        return list(dict.fromkeys(item for _, _, item in self._find(text)))

    def settled(self, text: str, *, last: bool) -> tuple[list[Manga], str]:
        """For text that is still growing: the series in it whatever follows, and the rest of the text to search again.

        Unless this is the ``last`` part, a title at the very end may turn out to be a longer one or another word.
        """
        lowered = _lower(text)
        found = [
            (end, item)
            for start, end, item in self._find(text)
            if last or (end < len(text) and not self._may_grow(lowered[start:], item))
        ]
        read = max((end for end, _ in found), default=0)
        if len(text) - read > self._longest:
            read = len(text) - self._longest
            # Not from the middle of a word, whose end could match a title.
            while read > 0 and text[read].isascii() and text[read].isalnum():
                read -= 1
        return list(dict.fromkeys(item for _, item in found)), text[read:]

    def _may_grow(self, rest: str, item: Manga) -> bool:
        longer = (
            name for key in (rest[:2], rest[:1]) for name, _, other in self._names.get(key, ()) if other is not item
        )
        return any(name != rest and name.startswith(rest) for name in longer)

    @cached_property
    def _longest(self) -> int:
        return max((len(name) for names in self._names.values() for name, _, _ in names), default=0)

    def mark_titles(self, text: str) -> MarkedText:
        """The titles in ``text``, and the text without them."""
        found = self._find(text)
        parts, last = [], 0
        for start, end, _ in found:
            parts += [text[last:start], "TITLE"]
            last = end
        titles = tuple(dict.fromkeys(item for _, _, item in found))
        return MarkedText(text, "".join([*parts, text[last:]]), titles)


def _lower(text: str) -> str:
    if text.isascii():
        return text.lower()
    # Character by character, so that positions are those of the original text.
    return "".join(lower if len(lower := character.lower()) == 1 else character for character in text)


def _matches_at(candidate: tuple[str, str, Manga], text: str, lowered: str, at: int) -> bool:
    name, written, _ = candidate
    end = at + len(name)
    if not lowered.startswith(name, at):
        return False
    if not written.isascii():
        return True
    if (at > 0 and text[at - 1].isascii() and text[at - 1].isalnum()) or (
        end < len(text) and text[end].isascii() and text[end].isalnum()
    ):
        return False
    return name not in _ORDINARY_WORDS or text[at:end] == written
