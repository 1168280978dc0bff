"""Cards beside an answer: which titles, when, and the same ones however the text is cut."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from mangalib.domain.catalogue import Catalogue
from mangalib.domain.intents import Intent
from mangalib.local.stack import Stack
from mangalib.precompute.facts import publish_facts
from mangalib.protocol.cards import CardDeck
from mangalib.settings import Settings
from tests.conftest import Connect, text_of

SETTINGS = Settings()
CATALOGUE = Catalogue.load(SETTINGS.data_dir / "catalogue.csv")
TEXT = (
    "If you like One Piece, try Naruto or 進撃の巨人. Monster is darker; MonsterX is none of ours, and neither is a monster. "
    "Then 20th Century Boys, and Fullmetal Alchemist"
)


def deck(question: str = "What should I read?", **changes: int) -> CardDeck:
    return CardDeck(CATALOGUE, SETTINGS.model_copy(update=changes), CATALOGUE.mentioned(question))


@given(cuts=st.lists(st.integers(0, len(TEXT)), max_size=40))
def test_however_the_text_is_cut_the_same_titles_come_in_the_same_order(cuts: list[int]) -> None:
    growing = deck(cards_max=100)
    edges = [0, *sorted(cuts), len(TEXT)]
    for start, end in pairwise(edges):
        growing.read(TEXT[start:end])
    growing.read("", last=True)
    assert [title.title for title in growing.titles] == [title.title for title in CATALOGUE.mentioned(TEXT)]


def test_a_title_waits_while_it_may_become_a_longer_one() -> None:
    names = sorted(title.title for title in CATALOGUE.items)
    short, long = next((one, other) for one in names for other in names if other.startswith(f"{one} ") and one != other)
    growing = deck()
    assert growing.read(f"I would read {short}") == []
    assert [title.title for title in growing.read(long.removeprefix(short) + " next.")] == [long]
    assert [title.title for title in deck().read(f"I would read {short}, then ")] == [short]


def test_what_a_product_question_names_is_shown_before_there_is_text() -> None:
    about = deck("Compare Naruto and Bleach").about(Intent.COMPARISON)
    assert [title.title for title in about] == ["Naruto", "Bleach"]
    assert deck("Where is my copy of Naruto?").about(Intent.ORDER_STATUS) == []


def test_a_recommendation_is_about_other_titles_than_the_one_that_was_named() -> None:
    growing = deck("Something like One Piece, please")
    assert growing.about(Intent.RECOMMENDATION) == []
    assert [title.title for title in growing.read("Like One Piece is Naruto.", last=True)] == ["Naruto"]


def test_no_more_cards_than_fit() -> None:
    assert len(deck(cards_max=2).read(TEXT, last=True)) == 2


async def test_cards_come_as_their_titles_are_named_and_again_with_prices_before_done(plain: Connect) -> None:
    async with plain() as client:
        frames = await client.frames(await client.query("Recommend me a good fantasy manga"))
    assert [frame["seq"] for frame in frames] == list(range(len(frames)))
    cards = [(at, frame["card"]) for at, frame in enumerate(frames) if frame["type"] == "card"]
    titles = [card["title"] for _, card in cards if card["kind"] == "title"]
    assert len(titles) == 3
    assert [card["title"] for _, card in cards if card["kind"] == "product"] == titles
    for at, card in cards:
        shown = text_of(frames[:at])
        if card["kind"] == "title":
            assert card["title"] in shown and card["title"] not in text_of(frames[: at - 4]), "as soon as it is named"
        else:
            assert shown == text_of(frames), "when the text is whole"
            assert card["price_usd"] > 0 and card["url"].endswith(card["manga_id"])
    assert frames[-1]["type"] == "done"


async def test_the_status_says_what_the_question_was_taken_for(plain: Connect) -> None:
    async with plain() as client:
        frames = await client.frames(await client.query("Tell me about One Piece"))
    assert {frame["intent"] for frame in frames if frame["type"] == "status"} == {"product_search"}
    first_card = next(at for at, frame in enumerate(frames) if frame["type"] == "card")
    first_text = next(at for at, frame in enumerate(frames) if frame["type"] == "chunk")
    assert first_card < first_text


@asynccontextmanager
async def other_facts(stack: Stack, **changes: Any) -> AsyncIterator[None]:
    redis = Redis.from_url(stack.addresses["redis_url"])
    real = CATALOGUE.by_id["m002"]
    try:
        await publish_facts(redis, [msgspec.structs.replace(real, **changes)])
        yield
    finally:
        await publish_facts(redis, [real])
        await redis.aclose()


async def test_a_card_has_the_price_that_holds_now(plain: Connect, stack: Stack) -> None:
    async with other_facts(stack, price_usd=1.23, stock=0), plain() as client:
        frames = await client.frames(await client.query("Tell me about Naruto"))
    product = next(f["card"] for f in frames if f["type"] == "card" and f["card"]["kind"] == "product")
    assert (product["manga_id"], product["price_usd"], product["stock"]) == ("m002", 1.23, 0)


@pytest.mark.parametrize("cut_at", ["card", "chunk"])
async def test_cut_off_and_resumed_no_card_is_missing_and_none_comes_twice(
    plain: Connect, stack: Stack, cut_at: str
) -> None:
    question = f"Recommend me a good horror manga ({cut_at})"
    async with plain() as client:
        request_id = await client.query(question)
        frames = [await client.next()]
        while frames[-1]["type"] != cut_at:
            frames.append(await client.next())
        client.socket.transport.abort()
    async with plain() as client:
        await client.send(action="resume", request_id=request_id, after=frames[-1]["seq"])
        frames += await client.frames(request_id)
    async with plain() as client:
        whole = await client.frames(await client.query(question))
    assert [frame["seq"] for frame in frames] == list(range(len(frames)))
    assert [f["card"] for f in frames if f["type"] == "card"] == [f["card"] for f in whole if f["type"] == "card"]
