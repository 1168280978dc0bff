"""Cards beside an answer, on the whole path: when they are sent, their prices, and resuming between them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from mangalib.domain.catalogue import Catalogue
from mangalib.local.stack import Stack
from mangalib.precompute.facts import publish_facts
from mangalib.settings import Settings
from tests.conftest import Connect, text_of

SETTINGS = Settings()
CATALOGUE = Catalogue.load(SETTINGS.data_dir / "catalogue.csv")


async def test_a_card_is_sent_when_its_title_is_named_and_again_with_its_price_before_done(plain: Connect) -> None:
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
            assert shown == text_of(frames), "when the text is complete"
            assert card["price_usd"] > 0 and card["url"].endswith(card["manga_id"])
    assert frames[-1]["type"] == "done"


async def test_a_status_names_the_classified_intent(plain: Connect) -> None:
    async with plain() as client:
        frames = await client.frames(await client.query("Tell me about One Piece"))
    assert {frame["intent"] for frame in frames if frame["type"] == "status"} == {"product_search"}
    first_card = next(at for at, frame in enumerate(frames) if frame["type"] == "card")
    first_text = next(at for at, frame in enumerate(frames) if frame["type"] == "chunk")
    assert first_card < first_text


@asynccontextmanager
async def changed_facts(stack: Stack, **changes: Any) -> AsyncIterator[None]:
    redis = Redis.from_url(stack.addresses["redis_url"])
    real = CATALOGUE.by_id["m002"]
    try:
        await publish_facts(redis, [msgspec.structs.replace(real, **changes)])
        yield
    finally:
        await publish_facts(redis, [real])
        await redis.aclose()


async def test_a_card_has_the_current_price(plain: Connect, stack: Stack) -> None:
    async with changed_facts(stack, price_usd=1.23, stock=0), plain() as client:
        frames = await client.frames(await client.query("Tell me about Naruto"))
    product = next(f["card"] for f in frames if f["type"] == "card" and f["card"]["kind"] == "product")
    assert (product["manga_id"], product["price_usd"], product["stock"]) == ("m002", 1.23, 0)


@pytest.mark.parametrize("cut_at", ["card", "chunk"])
async def test_a_resumed_answer_has_every_card_once(plain: Connect, stack: Stack, cut_at: str) -> None:
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
        uninterrupted = await client.frames(await client.query(question))
    assert [frame["seq"] for frame in frames] == list(range(len(frames)))
    assert [f["card"] for f in frames if f["type"] == "card"] == [
        f["card"] for f in uninterrupted if f["type"] == "card"
    ]
