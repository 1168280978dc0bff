"""What answers are made with."""

from __future__ import annotations

from dataclasses import dataclass

from mangalib.aws import Hedge, ManagementApi, ModelTransport
from mangalib.domain import Catalogue, Release, ReleaseFollower
from mangalib.nlu import QuestionParser
from mangalib.resilience import CircuitBreaker, RetryBudget
from mangalib.serving.precomputed import Precomputed
from mangalib.serving.prompts import PromptStore
from mangalib.serving.query_log import QueryLog
from mangalib.serving.replay_store import ReplayStore
from mangalib.serving.retrieval import CustomerData, TitleSearch
from mangalib.settings import AnswerSettings, ResilienceSettings


class Breakers:
    """Of what answers can do without. The model and the way back to the client have theirs inside."""

    def __init__(self, settings: ResilienceSettings) -> None:
        self.redis = CircuitBreaker.from_settings("Redis", settings)
        self.search = CircuitBreaker.from_settings("the search for titles", settings)
        self.customers = CircuitBreaker.from_settings("the customers' data", settings)


@dataclass(frozen=True)
class Services:
    """Everything an answer is made with; one set a process."""

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
