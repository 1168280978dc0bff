"""Puts pre-computation together for one orchestrator, and keeps its tasks running."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from opensearchpy import AsyncOpenSearch
from redis.asyncio import Redis

from mangalib.precompute.background import Background
from mangalib.precompute.batch import Batch
from mangalib.precompute.demand import Demand
from mangalib.precompute.facts import Facts
from mangalib.precompute.flight import Flights
from mangalib.precompute.followups import FollowUps
from mangalib.precompute.making import Kitchen
from mangalib.precompute.meaning import Reader
from mangalib.precompute.service import Precompute
from mangalib.precompute.shared import SharedAnswers
from mangalib.precompute.topics import Topics
from mangalib.precompute.transitions import LiveModel
from mangalib.precompute.warming import Measured
from mangalib.serving.ahead import Ahead
from mangalib.serving.aws import Signer
from mangalib.serving.bedrock import BedrockRuntime, bedrock_endpoint, bedrock_pool
from mangalib.serving.catalogue import Catalogue
from mangalib.serving.pool import WarmPool
from mangalib.serving.prompts import PromptStore
from mangalib.serving.release import ReleaseFollower
from mangalib.serving.retrieval import CustomerData, TitleSearch
from mangalib.settings import Settings

log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def running_precompute(
    settings: Settings,
    *,
    redis: Redis,
    catalogue: Catalogue,
    live: BedrockRuntime,
    live_pool: WarmPool,
    signer: Signer,
    search: TitleSearch,
    opensearch: AsyncOpenSearch,
    prompts: PromptStore,
    customers: CustomerData,
    releases: ReleaseFollower,
) -> AsyncIterator[Ahead]:
    """Everything that answers ahead, with connections to Bedrock of its own; all of it ends with the block."""
    reader = Reader(catalogue)
    topics = await asyncio.to_thread(Topics.from_data, settings, reader)
    facts = Facts(redis, customers)
    shared = SharedAnswers(redis, reader, settings)
    model = LiveModel(settings.transition_model)
    await asyncio.to_thread(model.refresh)
    endpoint = bedrock_endpoint(settings)
    async with contextlib.AsyncExitStack() as stack:
        connections = await stack.enter_async_context(bedrock_pool(endpoint, settings, background=True))
        quiet = BedrockRuntime(connections, signer, endpoint, settings)
        quiet_search = TitleSearch(quiet, opensearch, settings)
        group = await stack.enter_async_context(asyncio.TaskGroup())
        flights = Flights(redis, settings, group.create_task)
        background = Background(
            workers=settings.background_pool_size, quiet_s=settings.background_quiet_s, yielding=flights.cancel_idle
        )
        live_pool.on_wait = background.give_way
        kitchens = [
            Kitchen(runtime, finder, prompts, customers, facts, catalogue, settings)
            for runtime, finder in ((live, search), (quiet, quiet_search))
        ]
        demand = Demand(redis, half_life_h=settings.trending_half_life_h)
        batch = Batch(
            redis,
            kitchens[1],
            shared,
            flights,
            background,
            demand,
            facts,
            topics,
            reader,
            lambda: releases.current,
            settings,
        )
        follow_ups = FollowUps(redis, kitchens[1], flights, background, topics, model.predict, settings)
        ahead = Precompute(
            reader=reader,
            topics=topics,
            shared=shared,
            facts=facts,
            follow_ups=follow_ups,
            batch=batch,
            live_kitchen=kitchens[0],
            demand=demand,
            measured=Measured(redis),
            prompts=prompts,
            model=model,
            settings=settings,
        )
        await stack.enter_async_context(ahead)
        tasks = [group.create_task(shared.follow())]
        if settings.answers_ahead:
            tasks += [
                group.create_task(background.work()),
                group.create_task(batch.run()),
                group.create_task(model.follow(settings.transition_refresh_s)),
            ]
        try:
            yield ahead
        finally:
            live_pool.on_wait = None
            for task in tasks:
                task.cancel()
            flights.stop()
