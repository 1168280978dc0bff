"""Assembles pre-computation for one orchestrator and runs its tasks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import NamedTuple

from redis.asyncio import Redis

from mangalib.aws import BedrockRuntime, ModelTransport, Signer, WarmPool, bedrock_endpoint, bedrock_pool
from mangalib.domain import Catalogue, ReleaseFollower
from mangalib.nlu import MeaningReader, Topics
from mangalib.precompute.background import BackgroundQueue
from mangalib.precompute.facts import Facts
from mangalib.precompute.finder import AnswerFinder
from mangalib.precompute.follow_ups import FollowUps
from mangalib.precompute.generation.generator import AnswerGenerator
from mangalib.precompute.generation.single_flight import SingleFlight
from mangalib.precompute.lookup import AnswerLookup
from mangalib.precompute.prediction.live_model import LiveModel
from mangalib.precompute.service import Precompute
from mangalib.precompute.shared_answers import SharedAnswers
from mangalib.precompute.warming.batch import WarmingBatch
from mangalib.precompute.warming.demand import Demand
from mangalib.precompute.warming.measurement import WarmingMeasurement
from mangalib.serving import CustomerData, Precomputed, PromptStore, TitleSearch
from mangalib.settings import Settings


@dataclass(frozen=True)
class ServingResources:
    """What the orchestrator shares with pre-computation; ``live`` and ``live_pool`` serve live queries."""

    redis: Redis
    catalogue: Catalogue
    topics: Topics
    live: ModelTransport
    live_pool: WarmPool
    signer: Signer
    search: TitleSearch
    prompts: PromptStore
    customers: CustomerData
    releases: ReleaseFollower


class _Assembled(NamedTuple):
    precompute: Precompute
    shared: SharedAnswers
    batch: WarmingBatch


@contextlib.asynccontextmanager
async def running_precompute(settings: Settings, serving: ServingResources) -> AsyncIterator[Precomputed]:
    """Pre-computation, running, with its own connections to Bedrock; all its tasks end with the block."""
    model = LiveModel(settings)
    await asyncio.to_thread(model.refresh)
    endpoint = bedrock_endpoint(settings)
    async with bedrock_pool(endpoint, settings, background=True) as connections, asyncio.TaskGroup() as group:
        transport = BedrockRuntime(connections, serving.signer, endpoint, settings)
        single_flight = SingleFlight(serving.redis, settings, group.create_task)
        background = BackgroundQueue(
            workers=settings.background_pool_size,
            quiet_s=settings.background_quiet_s,
            on_yield=single_flight.cancel_idle,
        )
        serving.live_pool.on_wait = background.yield_to_live
        precompute, shared, batch = _assemble(settings, serving, transport, single_flight, background, model)
        async with precompute:
            tasks = [group.create_task(shared.follow())]
            if settings.answers_ahead:
                tasks += [
                    group.create_task(background.work()),
                    group.create_task(batch.repeat()),
                    group.create_task(model.follow(settings.transition_refresh_s)),
                ]
            try:
                yield precompute
            finally:
                serving.live_pool.on_wait = None
                for task in tasks:
                    task.cancel()
                single_flight.stop()


def _assemble(
    settings: Settings,
    serving: ServingResources,
    transport: ModelTransport,
    single_flight: SingleFlight,
    background: BackgroundQueue,
    model: LiveModel,
) -> _Assembled:
    redis, topics, reader = serving.redis, serving.topics, MeaningReader(serving.catalogue)
    facts = Facts(redis)
    shared = SharedAnswers(redis, reader, settings)
    live_generator, background_generator = (
        AnswerGenerator(models, serving.search, serving.prompts, serving.customers, facts, serving.catalogue, settings)
        for models in (serving.live, transport)
    )
    demand = Demand(redis, half_life_h=settings.trending_half_life_h)
    batch = WarmingBatch(
        redis,
        background_generator,
        shared,
        single_flight,
        background,
        demand,
        facts,
        topics,
        reader,
        lambda: serving.releases.current,
        settings,
    )
    follow_ups = FollowUps(redis, background_generator, single_flight, background, topics, model.predict, settings)
    finder = AnswerFinder(
        reader=reader,
        topics=topics,
        catalogue=serving.catalogue,
        lookup=AnswerLookup(redis),
        shared=shared,
        facts=facts,
        customers=serving.customers,
        prompts=serving.prompts,
        follow_ups=follow_ups,
        batch=batch,
        live_generator=live_generator,
        settings=settings,
    )
    precompute = Precompute(
        finder=finder,
        reader=reader,
        shared=shared,
        facts=facts,
        prompts=serving.prompts,
        follow_ups=follow_ups,
        batch=batch,
        demand=demand,
        measurement=WarmingMeasurement(redis),
        model=model,
        settings=settings,
    )
    return _Assembled(precompute, shared, batch)
