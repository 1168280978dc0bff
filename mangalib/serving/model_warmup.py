"""Model warm-up: three tiers of small calls that keep the models warm, and their monthly cost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from mangalib.aws import ClaudeRequest, ModelTransport, Turn
from mangalib.resilience import refresh_periodically, try_refresh
from mangalib.settings import WarmupSettings

SECONDS_A_MONTH = 30 * 24 * 3600
_TOKENS_PER_MTOK = 1_000_000


@dataclass(frozen=True)
class Tier:
    """One kind of warm-up call: interval, tokens, and prices in US dollars per million tokens."""

    name: str
    model_id: str
    every_s: float
    input_tokens: int
    output_tokens: int
    input_usd_per_mtok: float
    output_usd_per_mtok: float
    streamed: bool
    budget_month_usd: float
    prompt: str

    @property
    def month_usd(self) -> float:
        """Cost of 30 days for one orchestrator: calls × (input tokens × price + output tokens × price)."""
        call = self.input_tokens * self.input_usd_per_mtok + self.output_tokens * self.output_usd_per_mtok
        return SECONDS_A_MONTH / self.every_s * call / _TOKENS_PER_MTOK


def tiers(settings: WarmupSettings) -> list[Tier]:
    """The three tiers, from most to least frequent."""
    haiku = (settings.haiku_input_usd_per_mtok, settings.haiku_output_usd_per_mtok)
    sonnet = (settings.sonnet_input_usd_per_mtok, settings.sonnet_output_usd_per_mtok)
    return [
        Tier(
            "Haiku ping",
            settings.haiku_model_id,
            settings.haiku_ping_every_s,
            settings.haiku_ping_input_tokens,
            settings.haiku_ping_tokens,
            *haiku,
            streamed=False,
            budget_month_usd=settings.haiku_ping_month_usd,
            prompt="ping",
        ),
        Tier(
            "Sonnet answer",
            settings.sonnet_model_id,
            settings.sonnet_warm_every_s,
            settings.sonnet_warm_input_tokens,
            settings.sonnet_warm_tokens,
            *sonnet,
            streamed=False,
            budget_month_usd=settings.sonnet_warm_month_usd,
            prompt="You are kept warm by this request. Say in a few words that you are ready to talk about manga.",
        ),
        Tier(
            "Sonnet stream",
            settings.sonnet_model_id,
            settings.sonnet_stream_every_s,
            settings.sonnet_stream_input_tokens,
            settings.sonnet_stream_tokens,
            *sonnet,
            streamed=True,
            budget_month_usd=settings.sonnet_stream_month_usd,
            prompt="Introduce a manga shop in about a hundred tokens.",
        ),
    ]


async def warm_once(models: ModelTransport, settings: WarmupSettings) -> None:
    """Make one short call to each model, concurrently, so that none is cold afterwards; failures are logged."""
    async with asyncio.TaskGroup() as group:
        for tier in tiers(settings):
            if not tier.streamed:
                group.create_task(try_refresh(f"warm-up {tier.name}", partial(warm, models, tier)))


async def keep_warm(models: ModelTransport, settings: WarmupSettings, enabled: Callable[[], bool]) -> None:
    """Make all tiers' calls at their intervals, as long as ``enabled`` returns true; runs until cancelled."""

    async def warm_if_enabled(tier: Tier) -> None:
        if enabled():
            await warm(models, tier)

    async with asyncio.TaskGroup() as group:
        for tier in tiers(settings):
            group.create_task(
                refresh_periodically(f"warm-up {tier.name}", tier.every_s, partial(warm_if_enabled, tier))
            )


async def warm(models: ModelTransport, tier: Tier) -> None:
    """Make one call of a tier; raises as :class:`ModelTransport` does."""
    request = ClaudeRequest(tier.output_tokens, [Turn("user", tier.prompt)])
    if tier.streamed:
        async with models.stream(tier.model_id, request) as stream:
            async for _ in stream:
                continue
    else:
        await models.invoke(tier.model_id, request)
