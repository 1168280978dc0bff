"""Model warm-up: three tiers of small calls that keep models warm, and what they cost a month."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from mangalib.aws import ClaudeRequest, ModelTransport, Turn
from mangalib.errors import MangaError
from mangalib.settings import Settings

log = logging.getLogger(__name__)

SECONDS_A_MONTH = 30 * 24 * 3600
_TOKENS_PER_MTOK = 1_000_000


@dataclass(frozen=True)
class Tier:
    """One kind of warm-up call: how often, how many tokens, at which prices (US dollars per million tokens)."""

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
        """Cost of 30 days of it for one task: calls × (input tokens × price + output tokens × price)."""
        call = self.input_tokens * self.input_usd_per_mtok + self.output_tokens * self.output_usd_per_mtok
        return SECONDS_A_MONTH / self.every_s * call / _TOKENS_PER_MTOK


def tiers(settings: Settings) -> list[Tier]:
    """The three tiers of the product."""
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


async def warm_once(models: ModelTransport, settings: Settings) -> None:
    """One short call to each model, side by side: after it, none is cold."""
    async with asyncio.TaskGroup() as group:
        for tier in tiers(settings):
            if not tier.streamed:
                group.create_task(warm(models, tier))


async def keep_warm(models: ModelTransport, settings: Settings, wanted: Callable[[], bool]) -> None:
    """Make all tiers' calls at their intervals, while they are ``wanted``; runs until cancelled."""
    async with asyncio.TaskGroup() as group:
        for tier in tiers(settings):
            group.create_task(_repeat(models, tier, wanted))


async def warm(models: ModelTransport, tier: Tier) -> bool:
    """Make one call of a tier; a failure is logged, and told by returning false."""
    request = ClaudeRequest(tier.output_tokens, [Turn("user", tier.prompt)])
    try:
        if tier.streamed:
            async with models.stream(tier.model_id, request) as stream:
                async for _ in stream:
                    continue
        else:
            await models.invoke(tier.model_id, request)
    except MangaError as error:
        log.warning("warm-up %s failed: %s", tier.name, error)
        return False
    return True


async def _repeat(models: ModelTransport, tier: Tier, wanted: Callable[[], bool]) -> None:
    while True:
        await asyncio.sleep(tier.every_s)
        if wanted():
            await warm(models, tier)
