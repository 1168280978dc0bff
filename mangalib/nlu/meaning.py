"""What must be equal before two questions may share an answer: titles, numbers, names, negation and language.

Embeddings compare how questions are worded, not what they are about: "Is Naruto in stock?" and "Is Bleach in stock?" are
almost identical to them.
"""

from __future__ import annotations

import re
import unicodedata

import msgspec

from mangalib.domain import ORDER_NUMBER, Catalogue, MarkedText

_KANJI_DIGITS = {digit: value for value, digit in enumerate("〇一二三四五六七八九")}
_WORDS = {
    word: str(number)
    for number, words in enumerate(
        (
            "zero",
            "first",
            "two second twice",
            "three third",
            "four fourth",
            "five fifth",
            "six sixth",
            "seven seventh",
            "eight eighth",
            "nine ninth",
            "ten tenth",
            "eleven eleventh",
            "twelve twelfth",
        )
    )
    for word in words.split()
}
# "One" is a number only after these words; elsewhere it is a pronoun ("a new one").
_ONE = re.compile(r"\b(volume|vol|book|chapter|part|number|no)\.?\s+one\b", re.I)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_WORD_NUMBER = re.compile(rf"\b(?:{'|'.join(_WORDS)}|last|latest|newest|next|previous|final|half|double)\b", re.I)
_KANJI_NUMBER = re.compile(r"第?([〇一二三四五六七八九十百]+)(?=[巻冊話章部日月年人番円個件])")
_ORDINAL_JA = re.compile(r"最新|最終|最初|最後|次の|前の|全巻")
_NEGATION = re.compile(
    r"\b(?:not|no|never|without|none|neither|nor|cannot|except|excluding|nothing|nobody|nowhere|other than|instead)\b"
    r"|n['’]t\b|ない|なか|なく|ません|ませぬ|ずに|ぬ|以外|除い|不要|未",
    re.I,
)
_NAME = re.compile(r"(?<=[a-z,;:] )([A-Z][a-z'’]{2,})")
_KATAKANA = re.compile(r"[ァ-ヴー]{2,}")
_QUOTED = re.compile(r"[『「“\"]([^』」”\"]{1,60})[』」”\"]")
_SCRIPTS = (
    ("ja", re.compile(r"[぀-ヿ]")),
    ("ko", re.compile(r"[가-힯]")),
    ("zh", re.compile(r"[一-鿿]")),
    ("ru", re.compile(r"[Ѐ-ӿ]")),
)
_REFERENCE = re.compile(
    r"\b(?:it|its|it's|this|that|these|those|they|them|he|she|the same|that one|this one|second one|first one|series)\b"
    r"|それ|これ|あれ|その|この|あの|同じ",
    re.I,
)


class Meaning(msgspec.Struct, frozen=True):
    """What a question is about, extracted by rules.

    ``phrasing`` is its wording with titles, orders and numbers masked; ``refers_back`` says that it refers to something said
    before ("it", "that one").
    """

    language: str
    titles: tuple[str, ...]
    numbers: tuple[str, ...]
    names: tuple[str, ...]
    orders: tuple[str, ...]
    negations: int
    phrasing: str
    refers_back: bool = False

    @property
    def shape(self) -> tuple[str, int, int, tuple[str, ...], int, int]:
        """Equal for questions of one form, even about different things."""
        return (self.language, len(self.titles), len(self.numbers), self.names, len(self.orders), self.negations)

    @property
    def values(self) -> tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[str, ...], int]:
        """Must be equal for two questions to share an answer."""
        return (self.language, self.titles, self.numbers, self.names, self.orders, self.negations)


class MeaningReader:
    """Reads the meaning of questions; knows the catalogue's titles."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def read(self, text: str) -> Meaning:
        """The meaning of ``text``."""
        return self.read_marked(self.mark_titles(text))

    def mark_titles(self, text: str) -> MarkedText:
        """``text`` in Unicode normalisation form KC, with the titles in it marked."""
        return self._catalogue.mark_titles(unicodedata.normalize("NFKC", text).strip())

    def read_marked(self, marked: MarkedText) -> Meaning:
        """The meaning of a text whose titles are marked already."""
        return _read(marked.text, marked.masked, tuple(title.manga_id for title in marked.titles))

    def read_phrasing(self, phrasing: str) -> Meaning:
        """The meaning of a template in which TITLE stands for any title."""
        folded = unicodedata.normalize("NFKC", phrasing).strip()
        return _read(folded, folded, ("TITLE",) * folded.count("TITLE"))


def _read(folded: str, masked: str, titles: tuple[str, ...]) -> Meaning:
    rest = masked
    quoted = tuple(name.casefold() for name in _QUOTED.findall(rest) if name != "TITLE")
    orders = tuple(order.upper() for order in ORDER_NUMBER.findall(rest))
    rest = ORDER_NUMBER.sub("ORDER", rest)
    numbers = [number.replace(",", "") for number in _NUMBER.findall(rest)]
    numbers += ["1"] * len(_ONE.findall(rest))
    numbers += [_WORDS.get(word.lower(), word.lower()) for word in _WORD_NUMBER.findall(rest)]
    numbers += [str(_kanji_value(number)) for number in _KANJI_NUMBER.findall(rest)]
    numbers += _ORDINAL_JA.findall(rest)
    names = {name.casefold() for name in (*_NAME.findall(rest), *_KATAKANA.findall(rest)) if "TITLE" not in name}
    return Meaning(
        language=next((language for language, script in _SCRIPTS if script.search(folded)), "en"),
        titles=titles,
        numbers=tuple(sorted(numbers)),
        names=tuple(sorted({*names, *quoted} - {"order"})),
        orders=orders,
        negations=len(_NEGATION.findall(rest)),
        phrasing=_NUMBER.sub("0", rest),
        refers_back=not titles and bool(_REFERENCE.search(folded)),
    )


def folded_question(text: str) -> str:
    """Equal for questions that differ only in character width, case, spacing or final punctuation."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip("?!.。 ")


def _kanji_value(number: str) -> int:
    total, digit = 0, 0
    for character in number:
        if character in _KANJI_DIGITS:
            digit = _KANJI_DIGITS[character]
        else:
            total += max(1, digit) * (10 if character == "十" else 100)
            digit = 0
    return total + digit
