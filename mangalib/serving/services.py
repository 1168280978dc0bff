"""What answers are made with."""

from __future__ import annotations

from dataclasses import dataclass

from mangalib.serving.ahead import Ahead
from mangalib.serving.bedrock import BedrockRuntime
from mangalib.serving.classifier import IntentClassifier
from mangalib.serving.gateway import ManagementApi
from mangalib.serving.prompts import PromptStore
from mangalib.serving.querylog import QueryLog
from mangalib.serving.release import ReleaseFollower
from mangalib.serving.replay import ReplayStore
from mangalib.serving.retrieval import CustomerData, TitleSearch
from mangalib.settings import Settings


@dataclass(frozen=True)
class Services:
    """Everything an answer is made with; one set a process."""

    settings: Settings
    classifier: IntentClassifier
    prompts: PromptStore
    search: TitleSearch
    customers: CustomerData
    bedrock: BedrockRuntime
    management: ManagementApi
    replay: ReplayStore
    releases: ReleaseFollower
    ahead: Ahead
    query_log: QueryLog | None = None
