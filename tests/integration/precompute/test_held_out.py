"""Held-out sessions are not served what warming generated, and are measured beside those that are."""

from __future__ import annotations

import asyncio

import pandas as pd
import pytest
from redis.asyncio import Redis

from mangalib.client import Client
from mangalib.domain.catalogue import Catalogue
from mangalib.local.stack import Stack
from mangalib.nlu.meaning import MeaningReader
from mangalib.nlu.topics import Topics
from mangalib.precompute.generated_answer import TRENDING, CanonicalQuestion, GeneratedAnswer, title_fingerprint
from mangalib.precompute.generation.spec import standard_wording
from mangalib.precompute.shared_answers import SharedAnswers, answer_key
from mangalib.precompute.warming import WarmingMeasurement
from mangalib.precompute.warming.measurement import held_out
from mangalib.precompute.warming.plans import Program
from tests.conftest import orchestrator_here

SHARE = 0.5
SESSIONS = {held_out(f"session-{number}", SHARE): f"session-{number}" for number in range(20)}


async def test_a_held_out_session_is_not_served_a_warmed_answer(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue = Catalogue.load(stack.settings.data_dir / "catalogue.csv")
    reader, title = MeaningReader(catalogue), catalogue.by_id["m150"]
    topics = await asyncio.to_thread(Topics.from_data, stack.settings, reader)
    question = CanonicalQuestion("price", title.manga_id, "en")
    text, intent = standard_wording(question, title), topics.by_name["price"].intent
    meaning = reader.read(text)
    redis = Redis.from_url(stack.addresses["redis_url"])
    measurement = WarmingMeasurement(redis)

    async def measured() -> pd.DataFrame:
        return (await measurement.table()).set_index("arm")

    async def source(held_out: bool) -> str:
        async with Client(
            stack.addresses["websocket_url"],
            stack.addresses["token"],
            session_id=SESSIONS[held_out],
            settings=stack.settings,
        ) as client:
            reply = await client.answer(text)
        assert reply.metadata is not None
        return reply.metadata.source

    warmed = GeneratedAnswer(
        "It was warmed.",
        intent,
        TRENDING,
        depends={title.manga_id: title_fingerprint(title)},
        program=Program.POPULAR,
    )
    try:
        await SharedAnswers(redis, reader, stack.settings).put(intent, question.topic, meaning, text, warmed)
        async with orchestrator_here(stack, monkeypatch, answers_ahead=True, held_out_share=SHARE):
            assert await source(held_out=False) == TRENDING
            assert await source(held_out=True) == "model"
            async with asyncio.timeout(10):
                while not {"held_out", Program.POPULAR} <= set((await measured()).index):
                    await asyncio.sleep(0.02)
        table = await measured()
        assert table.loc["held_out", "tokens"] > table.loc[Program.POPULAR, "tokens"] == 0
        saved_ms = table.loc["held_out", "total_ms"] - table["total_ms"]
        pd.testing.assert_series_equal(table["saved_ms"], saved_ms, check_names=False)
    finally:
        await redis.delete(answer_key(intent, question.topic, meaning))
        await redis.aclose()
