"""Everything that answers are generated with."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from redis.exceptions import RedisError

from mangalib.aws import Hedge, ManagementApi, ModelTransport
from mangalib.domain import Catalogue, Release, ReleaseFollower
from mangalib.errors import DependencyDownError
from mangalib.nlu import QuestionParser
from mangalib.resilience import CircuitBreaker, RetryBudget
from mangalib.serving.precomputed import Precomputed
from mangalib.serving.prompts import PromptStore
from mangalib.serving.query_log import QueryLog
from mangalib.serving.replay_store import ReplayStore
from mangalib.serving.retrieval import CustomerData, TitleSearch
from mangalib.settings import AnswerSettings, ResilienceSettings

log = logging.getLogger(__name__)


class Breakers:
    """Circuit breakers of what answers can do without. The models and the management API have their own."""

    def __init__(self, settings: ResilienceSettings) -> None:
        self.redis = CircuitBreaker.from_settings("Redis", settings)
        self.search = CircuitBreaker.from_settings("the search for titles", settings)
        self.customers = CircuitBreaker.from_settings("the customers' data", settings)

    @contextmanager
    def redis_optional(self, consequence: str) -> Iterator[None]:
        """Around a step in Redis that may fail: then the rest of the block is left out, and the ``consequence`` is logged."""
        try:
            with self.redis.watch():
                yield
        except (RedisError, OSError, TimeoutError, DependencyDownError) as error:
            log.warning("Redis: %s: %s; %s", type(error).__name__, error, consequence)


@dataclass(frozen=True)
class Services:
    """One set a process."""

    settings: AnswerSettings
    catalogue: Catalogue
    parser: QuestionParser
    prompts: PromptStore
    search: TitleSearch
    customers: CustomerData
    models: ModelTransport
    unpooled_models: ModelTransport
    model_retries: RetryBudget
    hedge: Hedge
    breakers: Breakers
    management: ManagementApi
    replay: ReplayStore
    releases: ReleaseFollower
    precomputed: Precomputed
    query_log: QueryLog | None = None

    def models_of(self, release: Release) -> ModelTransport:
        """The transport that a release uses: over the warm pool, or over a new connection for each request."""
        return self.models if release.optimisations.warm_pool else self.unpooled_models
