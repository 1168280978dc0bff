"""The text of the local model's answers: sentences about the catalogue, the same for the same request and seed."""

from __future__ import annotations

import hashlib
import random
import re

from mangalib.aws import ClaudeRequest
from mangalib.domain import Catalogue, Manga

_JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")
_TOKEN = re.compile(r"\s?[A-Za-z]{1,6}|\s?\d{1,3}|\s?[^\sA-Za-z\d]|\s")
_PROMPT_TITLE = re.compile(r"^- (.+?) \(.*\) by ", re.MULTILINE)
_PROMPT_ORDER = re.compile(r"order_id: ([\w-]+).*?status: ([\w ]+)", re.MULTILINE)

_GREETINGS_EN = (
    "Hello and welcome to our manga shop! Ask me about a title, an order, or what to read next.",
    "Hi there! I can find a manga for you, compare two of them, or look after your order. What would you like?",
)
_GREETINGS_JA = (
    "いらっしゃいませ!お探しの漫画やご注文について、何でもお尋ねください。",
    "こんにちは!おすすめの作品をご紹介することも、ご注文の確認もできます。",
)


def tokens_of(text: str) -> list[str]:
    """``text`` cut into tokens as the stand-in counts and sends them; joined, they are ``text``."""
    return _TOKEN.findall(text)


class AnswerWriter:
    """Writes answers; a request whose last turn is the assistant's is continued from that text.

    While ``fixed_answer`` is set, it is the answer to every request.
    """

    def __init__(self, catalogue: Catalogue, seed: int) -> None:
        self._catalogue = catalogue
        self._seed = seed
        self._by_title = {item.title: item for item in catalogue.items}
        self.fixed_answer: str | None = None

    def write(self, model_id: str, request: ClaudeRequest) -> str:
        """The answer's text, without the assistant's turn that it continues."""
        turns, prefix = list(request.messages), ""
        if turns[-1].role == "assistant":
            prefix = turns.pop().content
        question = turns[-1].content
        fingerprint = repr((self._seed, model_id, request.system, [(turn.role, turn.content) for turn in turns]))
        rng = random.Random(hashlib.sha256(fingerprint.encode()).digest())
        text = self.fixed_answer or self._compose(question, request.system, rng)
        return text.removeprefix(prefix)

    def _compose(self, question: str, system: str, rng: random.Random) -> str:
        asked = self._catalogue.mentioned(question)
        retrieved = [self._by_title[t] for t in _PROMPT_TITLE.findall(system) if t in self._by_title]
        others = [item for item in retrieved if item not in asked] or rng.sample(self._catalogue.items, 3)
        japanese = bool(_JAPANESE.search(question))
        orders = _PROMPT_ORDER.findall(system)
        if orders and not asked and not retrieved:
            return _about_orders(orders, japanese)
        if asked and len(asked) > 1:
            return _compare(asked[0], asked[1], japanese)
        if asked:
            return _describe(asked[0], others, japanese, rng)
        if retrieved:
            return _recommend(others[:3], japanese)
        if len(question) < 40:
            return rng.choice(_GREETINGS_JA if japanese else _GREETINGS_EN)
        return _general(japanese)


def _describe(item: Manga, others: list[Manga], japanese: bool, rng: random.Random) -> str:
    if japanese:
        return (
            f"『{item.title_ja}』は{item.author}による作品で、{item.first_year}年に連載が始まりました。"
            f"全{item.volumes}巻が刊行されており、ジャンルは{item.genres.replace(',', '、')}です。"
            f"一冊{item.price_usd:.2f}ドルで、現在{item.stock}冊の在庫がございます。"
            f"お好きでしたら『{others[0].title_ja}』もおすすめです。📚"
        )
    opening = rng.choice(("Good choice!", "A favourite of ours.", "Happily."))
    return (
        f"{opening} {item.title} is {_with_article(item.genres.split(',')[0])} manga by {item.author}, published by "
        f"{item.publisher} since {item.first_year}. There are {item.volumes} volumes and the series is {item.status}. "
        f"A volume costs {item.price_usd:.2f} USD, and we have {item.stock} in stock right now. "
        f"Readers who like it for its {item.genres.replace(',', ', ')} often go on to {others[0].title} by "
        f"{others[0].author}, which has {others[0].volumes} volumes. Shall I put the first volume into your basket? 📚"
    )


def _with_article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _compare(one: Manga, other: Manga, japanese: bool) -> str:
    if japanese:
        return (
            f"『{one.title_ja}』は{one.first_year}年開始で全{one.volumes}巻、『{other.title_ja}』は"
            f"{other.first_year}年開始で全{other.volumes}巻です。前者は{one.genres.replace(',', '、')}、"
            f"後者は{other.genres.replace(',', '、')}が中心です。短く読みたい方には巻数の少ない方をおすすめします。"
        )
    shorter = one if one.volumes <= other.volumes else other
    return (
        f"{one.title} by {one.author} began in {one.first_year} and has {one.volumes} volumes; it is {one.status} and "
        f"leans towards {one.genres.replace(',', ', ')}. {other.title} by {other.author} began in {other.first_year} "
        f"with {other.volumes} volumes so far, {other.status}, and is more about {other.genres.replace(',', ', ')}. "
        f"If you would rather finish soon, {shorter.title} is the shorter way. A volume of {one.title} costs "
        f"{one.price_usd:.2f} USD, one of {other.title} {other.price_usd:.2f} USD."
    )


def _recommend(items: list[Manga], japanese: bool) -> str:
    if japanese:
        lines = "\n".join(f"- **『{i.title_ja}』**({i.author}、全{i.volumes}巻)" for i in items)
        return f"こちらの作品はいかがでしょうか。\n\n{lines}\n\n気になる作品があれば、もっと詳しくご紹介します。😊"
    lines = "\n".join(
        f"{number}. **{i.title}** by {i.author}: {i.genres.replace(',', ', ')}, {i.volumes} volumes, {i.price_usd:.2f} USD."
        for number, i in enumerate(items, start=1)
    )
    return f"Here is what I would read next.\n\n{lines}\n\nTell me which one you want to know more about. 😊"


def _about_orders(orders: list[tuple[str, str]], japanese: bool) -> str:
    if japanese:
        return "".join(f"ご注文 {number} の状況は「{status.strip()}」です。" for number, status in orders)
    lines = " ".join(f"Order {number} is {status.strip()}." for number, status in orders)
    return f"{lines} You will get an e-mail as soon as anything changes."


def _general(japanese: bool) -> str:
    if japanese:
        return "ご質問ありがとうございます。5000円以上のご注文は送料無料で、未開封の商品は30日以内であれば返品いただけます。"
    return (
        "Thank you for asking. Orders over 50 USD ship free of charge, unopened volumes can be returned within 30 days, "
        "and our staff is happy to help with anything else you would like to know."
    )
