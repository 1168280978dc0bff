"""Model warm-up: its cost, and calls that fail or are switched off."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mangalib.errors import TransportError
from mangalib.serving.model_warmup import keep_warm, tiers, warm_once
from mangalib.settings import WarmupSettings


class Bedrock:
    """Notes the model of each call; ``failing`` models raise."""

    def __init__(self, failing: str = "") -> None:
        self.called: list[str] = []
        self.failing = failing
        self.news = asyncio.Event()

    async def invoke(self, model_id: str, request: object) -> bytes:
        self.called.append(model_id)
        self.news.set()
        if model_id == self.failing:
            raise TransportError("refused")
        return b""


def test_warm_up_costs_what_the_specification_says() -> None:
    settings = WarmupSettings()
    costs = [tier.month_usd for tier in tiers(settings)]
    budgets = [settings.haiku_ping_month_usd, settings.sonnet_warm_month_usd, settings.sonnet_stream_month_usd]
    assert costs == pytest.approx(budgets, abs=0.01)
    assert sum(costs) == pytest.approx(settings.warmup_month_usd, abs=0.01)


async def test_warming_once_calls_each_model_though_one_fails(caplog: pytest.LogCaptureFixture) -> None:
    settings = WarmupSettings()
    bedrock: Any = Bedrock(failing=settings.haiku_model_id)
    await warm_once(bedrock, settings)
    assert sorted(bedrock.called) == sorted([settings.haiku_model_id, settings.sonnet_model_id])
    assert "warm-up Haiku ping failed: TransportError: refused" in caplog.text


async def test_calls_go_on_after_a_failure_and_stop_while_switched_off() -> None:
    settings = WarmupSettings(haiku_ping_every_s=0.001, sonnet_warm_every_s=3600, sonnet_stream_every_s=3600)
    bedrock: Any = Bedrock(failing=settings.haiku_model_id)
    enabled, asked = False, asyncio.Event()

    def is_enabled() -> bool:
        asked.set()
        return enabled

    task = asyncio.create_task(keep_warm(bedrock, settings, is_enabled))
    async with asyncio.timeout(10):
        await asked.wait()
        assert not bedrock.called
        enabled = True
        while len(bedrock.called) < 3:
            bedrock.news.clear()
            await bedrock.news.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
