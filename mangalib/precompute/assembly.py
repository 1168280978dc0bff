"""Puts pre-computation together for one orchestrator, and keeps its tasks running."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from opensearchpy import AsyncOpenSearch
from redis.asyncio import Redis

from mangalib.aws import BedrockRuntime, Signer, WarmPool, bedrock_endpoint, bedrock_pool
from mangalib.domain import Catalogue, ReleaseFollower
from mangalib.nlu import MeaningReader, Topics
from mangalib.precompute.background import BackgroundQueue
from mangalib.precompute.facts import Facts
from mangalib.precompute.follow_ups import FollowUps
from mangalib.precompute.generation.generator import AnswerGenerator
from mangalib.precompute.generation.single_flight import SingleFlight
from mangalib.precompute.prediction.transition_model import LiveModel
from mangalib.precompute.service import Precompute
from mangalib.precompute.shared_answers import SharedAnswers
from mangalib.precompute.warming.batch import WarmingBatch
from mangalib.precompute.warming.demand import Demand
from mangalib.precompute.warming.measurement import WarmingMeasurement
from mangalib.serving import CustomerData, Precomputed, PromptStore, TitleSearch
from mangalib.settings import Settings


@dataclass(frozen=True)
class Around:
    """What the orchestrator has already, and pre-computation uses with it."""

    redis: Redis
    catalogue: Catalogue
    topics: Topics
    live: BedrockRuntime
    live_pool: WarmPool
    signer: Signer
    search: TitleSearch
    opensearch: AsyncOpenSearch
    prompts: PromptStore
    customers: CustomerData
    releases: ReleaseFollower


@contextlib.asynccontextmanager
async def running_precompute(settings: Settings, around: Around) -> AsyncIterator[Precomputed]:
    """Everything that answers ahead, with connections to Bedrock of its own; all of it ends with the block."""
    model = LiveModel(settings.transition_model)
    await asyncio.to_thread(model.refresh)
    endpoint = bedrock_endpoint(settings)
    async with bedrock_pool(endpoint, settings, background=True) as connections, asyncio.TaskGroup() as group:
        quiet = BedrockRuntime(connections, around.signer, endpoint, settings)
        flights = SingleFlight(around.redis, settings, group.create_task)
        background = BackgroundQueue(
            workers=settings.background_pool_size, quiet_s=settings.background_quiet_s, on_yield=flights.cancel_idle
        )
        around.live_pool.on_wait = background.yield_to_live
        async with _put_together(settings, around, quiet, flights, background, model) as ahead:
            tasks = [group.create_task(ahead.shared.follow())]
            if settings.answers_ahead:
                tasks += [
                    group.create_task(background.work()),
                    group.create_task(ahead.batch.repeat()),
                    group.create_task(model.follow(settings.transition_refresh_s)),
                ]
            try:
                yield ahead
            finally:
                around.live_pool.on_wait = None
                for task in tasks:
                    task.cancel()
                flights.stop()


def _put_together(
    settings: Settings,
    around: Around,
    quiet: BedrockRuntime,
    flights: SingleFlight,
    background: BackgroundQueue,
    model: LiveModel,
) -> Precompute:
    redis, reader = around.redis, MeaningReader(around.catalogue)
    facts = Facts(redis, around.customers)
    shared = SharedAnswers(redis, reader, settings)
    quiet_search = TitleSearch(quiet, around.opensearch, settings)
    live_kitchen, quiet_kitchen = (
        AnswerGenerator(runtime, search, around.prompts, around.customers, facts, around.catalogue, settings)
        for runtime, search in ((around.live, around.search), (quiet, quiet_search))
    )
    demand = Demand(redis, half_life_h=settings.trending_half_life_h)
    batch = WarmingBatch(
        redis,
        quiet_kitchen,
        shared,
        flights,
        background,
        demand,
        facts,
        around.topics,
        reader,
        lambda: around.releases.current,
        settings,
    )
    return Precompute(
        reader=reader,
        topics=around.topics,
        shared=shared,
        facts=facts,
        follow_ups=FollowUps(redis, quiet_kitchen, flights, background, around.topics, model.predict, settings),
        batch=batch,
        live_kitchen=live_kitchen,
        demand=demand,
        measurement=WarmingMeasurement(redis),
        prompts=around.prompts,
        model=model,
        settings=settings,
    )
