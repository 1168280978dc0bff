"""The orchestrator's process: connects to everything the orchestrator uses and serves it over HTTP.

Run it with ``python -m mangalib.server``; on AWS that is the task's command.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import boto3
import uvloop
from aiohttp import web
from opensearchpy import AsyncOpenSearch, AWSV4SignerAsyncAuth
from redis import __version__ as redis_version
from redis.asyncio import BlockingConnectionPool, Redis
from redis.driver_info import DriverInfo

from mangalib.aws import (
    CREDENTIALS_REFRESH_S,
    BedrockRuntime,
    DocumentTable,
    FreshConnections,
    Hedge,
    ManagementApi,
    ModelTransport,
    Signer,
    bedrock_endpoint,
    bedrock_pool,
    dynamodb_client,
    management_endpoint,
    management_pool,
)
from mangalib.domain import Catalogue, ReleaseFollower, ReleaseStore
from mangalib.errors import MangaError, ReleaseError
from mangalib.nlu import IntentClassifier, MeaningReader, QuestionParser, Topics
from mangalib.precompute import ServingResources, running_precompute
from mangalib.resilience import RetryBudget, refresh_periodically, try_refresh
from mangalib.serving import (
    Breakers,
    CustomerData,
    Orchestrator,
    Precomputed,
    PromptStore,
    QueryLog,
    ReplayStore,
    Services,
    TitleSearch,
    keep_warm,
    log_as_json,
    require_secret,
    warm_once,
)
from mangalib.settings import AddressSettings, Settings, load_settings

log = logging.getLogger(__name__)

_REDIS_TIMEOUT_S = 2
_PROMPTS, _RELEASE = "reading prompts", "reading the active release"


@contextlib.asynccontextmanager
async def running_orchestrator(settings: Settings) -> AsyncIterator[Orchestrator]:
    """Connect to everything, warm up, and yield an orchestrator that is ready; closes all of it afterwards."""
    require_secret(settings)
    async with contextlib.AsyncExitStack() as stack:
        resources, parser = await _connect(stack, settings)
        precomputed = await stack.enter_async_context(running_precompute(settings, resources))
        services = await _services(stack, settings, resources, parser, precomputed)
        orchestrator = await stack.enter_async_context(Orchestrator(services, resources.redis, settings))
        async with asyncio.TaskGroup() as background:
            running = _background_tasks(resources.signer, services, settings)
            tasks = [background.create_task(task) for task in running]
            yield orchestrator
            for task in tasks:
                task.cancel()


async def _connect(stack: contextlib.AsyncExitStack, settings: Settings) -> tuple[ServingResources, QuestionParser]:
    """Everything that serving and pre-computation share, open and warm."""
    session = boto3.Session(region_name=settings.region)
    signer = Signer(session, settings.region)
    dynamodb = dynamodb_client(settings)
    catalogue = Catalogue.load(settings.data_dir / "catalogue.csv")
    prompts = PromptStore(dynamodb, settings.prompts_table)
    await try_refresh(_PROMPTS, prompts.refresh)
    releases = ReleaseFollower(
        ReleaseStore(DocumentTable(dynamodb, settings.releases_table, key="release", error=ReleaseError))
    )
    await try_refresh(_RELEASE, releases.refresh)
    redis = _redis(settings)
    stack.push_async_callback(redis.aclose)
    opensearch = _opensearch(settings, session)
    stack.push_async_callback(opensearch.close)
    endpoint = bedrock_endpoint(settings)
    pool = await stack.enter_async_context(bedrock_pool(endpoint, settings))
    models = BedrockRuntime(pool, signer, endpoint, settings)
    reader = MeaningReader(catalogue)
    classifier, topics = await _warm_and_load(models, reader, settings)
    customers = CustomerData(dynamodb, settings)
    stack.callback(customers.close)
    search = TitleSearch(opensearch, settings)
    resources = ServingResources(redis, catalogue, topics, models, pool, signer, search, prompts, customers, releases)
    return resources, QuestionParser(reader, classifier, topics)


async def _services(
    stack: contextlib.AsyncExitStack,
    settings: Settings,
    resources: ServingResources,
    parser: QuestionParser,
    precomputed: Precomputed,
) -> Services:
    """What answers are generated with."""
    management_at, bedrock_at = management_endpoint(settings), bedrock_endpoint(settings)
    connections = await stack.enter_async_context(management_pool(management_at, settings))
    unpooled = FreshConnections(bedrock_at, settings)
    return Services(
        settings=settings,
        catalogue=resources.catalogue,
        parser=parser,
        prompts=resources.prompts,
        search=resources.search,
        customers=resources.customers,
        models=resources.live,
        unpooled_models=BedrockRuntime(unpooled, resources.signer, bedrock_at, settings),
        model_retries=RetryBudget(settings.retry_share, settings.retry_burst),
        hedge=Hedge(settings),
        breakers=Breakers(settings),
        management=ManagementApi(connections, resources.signer, management_at, settings),
        replay=ReplayStore(resources.redis, ttl_s=settings.replay_ttl_s),
        releases=resources.releases,
        precomputed=precomputed,
        query_log=QueryLog.from_settings(settings),
    )


async def _warm_and_load(
    models: ModelTransport, reader: MeaningReader, settings: Settings
) -> tuple[IntentClassifier, Topics]:
    """Warm the models while the classifier and the topics are prepared."""
    _, classifier, topics = await asyncio.gather(
        warm_once(models, settings),
        asyncio.to_thread(IntentClassifier.from_data, settings),
        asyncio.to_thread(Topics.from_data, settings, reader),
    )
    return classifier, topics


def _background_tasks(signer: Signer, services: Services, settings: Settings) -> list[Coroutine[Any, Any, None]]:
    """Credentials, prompts and the active release are refreshed, the models kept warm, sampled questions logged."""
    releases = services.releases
    tasks = [
        refresh_periodically("renewing AWS credentials", CREDENTIALS_REFRESH_S, signer.refresh),
        refresh_periodically(_PROMPTS, settings.prompt_refresh_s, services.prompts.refresh),
        refresh_periodically(_RELEASE, settings.release_refresh_s, releases.refresh),
        keep_warm(services.models, settings, lambda: releases.current.optimisations.model_warmup),
    ]
    if services.query_log is not None:
        tasks.append(services.query_log.write())
    return tasks


def _redis(settings: AddressSettings) -> Redis:
    url = settings.redis_url or "redis://127.0.0.1:6379"
    # Created once, because by default each new connection reads the library's version from disk, on the event loop.
    driver = DriverInfo(lib_version=redis_version)
    # When all connections are in use this pool waits for one; the default pool raises, and under load Redis would be skipped.
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=settings.redis_connections,
        timeout=_REDIS_TIMEOUT_S,
        socket_timeout=_REDIS_TIMEOUT_S,
        socket_connect_timeout=_REDIS_TIMEOUT_S,
        driver_info=driver,
    )
    return Redis.from_pool(pool)


def _opensearch(settings: AddressSettings, session: boto3.Session) -> AsyncOpenSearch:
    url = settings.opensearch_url or "http://127.0.0.1:9200"
    # OpenSearch Serverless requires signed requests; the local service does not check.
    auth = (
        AWSV4SignerAsyncAuth(session.get_credentials(), settings.region, "aoss") if settings.target == "aws" else None
    )
    return AsyncOpenSearch(url, http_auth=auth, timeout=5, max_retries=0)


async def serve(settings: Settings, announce: Callable[[dict[str, str]], None]) -> None:
    """Run until cancelled; ``announce`` is called with the address as soon as requests are served."""
    async with running_orchestrator(settings) as orchestrator:
        # Bodies larger than the gateway would pass on are refused.
        app = web.Application(client_max_size=2 * settings.max_message_bytes)
        app.router.add_post("/", orchestrator.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, settings.orchestrator_host, settings.orchestrator_port, backlog=1024)
            await site.start()
            # A full garbage collection visits every object of every library and stalls all streams for 60 to 140 ms
            # (measured). What exists by now lives as long as the process, so it is exempted.
            gc.collect()
            gc.freeze()
            host, port = runner.addresses[0][:2]
            announce({"orchestrator_url": f"http://{host}:{port}"})
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            # A first signal starts draining. A second one cuts it short; running answers are then resumed by another server.
            await orchestrator.drain()
            raise
        finally:
            await runner.cleanup()


async def _until_signalled(settings: Settings) -> None:
    service = asyncio.ensure_future(serve(settings, lambda at: log.info("ready at %s", at["orchestrator_url"])))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, service.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await service


def main() -> None:
    """Run the orchestrator; exits with status 1 and one line on a wrong setting or an unreachable service."""
    log_as_json()
    try:
        uvloop.run(_until_signalled(load_settings()))
    except (MangaError, OSError) as error:
        sys.exit(f"orchestrator: {error}")


if __name__ == "__main__":
    main()
