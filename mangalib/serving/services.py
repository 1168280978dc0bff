"""What answers are made with."""

from __future__ import annotations

from dataclasses import dataclass

from mangalib.aws import BedrockRuntime, Hedge, ManagementApi
from mangalib.domain import Catalogue, ReleaseFollower
from mangalib.nlu import IntentClassifier
from mangalib.resilience import CircuitBreaker
from mangalib.serving.precomputed import Precomputed
from mangalib.serving.prompts import PromptStore
from mangalib.serving.query_log import QueryLog
from mangalib.serving.replay_store import ReplayStore
from mangalib.serving.retrieval import CustomerData, TitleSearch
from mangalib.settings import Settings


class Breakers:
    """Of what answers can do without. The model and the way back to the client have theirs inside."""

    def __init__(self, settings: Settings) -> None:
        self.redis = CircuitBreaker.from_settings("Redis", settings)
        self.search = CircuitBreaker.from_settings("the search for titles", settings)
        self.customers = CircuitBreaker.from_settings("the customers' data", settings)


@dataclass(frozen=True)
class Services:
    """Everything an answer is made with; one set a process."""

    settings: Settings
    catalogue: Catalogue
    classifier: IntentClassifier
    prompts: PromptStore
    search: TitleSearch
    customers: CustomerData
    bedrock: BedrockRuntime
    hedge: Hedge
    breakers: Breakers
    management: ManagementApi
    replay: ReplayStore
    releases: ReleaseFollower
    ahead: Precomputed
    query_log: QueryLog | None = None
