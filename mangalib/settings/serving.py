"""Serving: one answer, the capacity of one orchestrator, what it refreshes and logs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from mangalib.settings.addresses import ShopSettings, TableSettings
from mangalib.settings.group import Count, Group, Positive
from mangalib.settings.models import ModelSettings
from mangalib.settings.session import AuthSettings, GatewaySettings
from mangalib.settings.transport import TimeoutSettings


class ReplaySettings(Group):
    """The time-out of one step of the replay store, or of another optional write to Redis."""

    replay_timeout_ms: Positive = 250


class SearchSettings(ModelSettings, TableSettings):
    """Title search and the customer's records."""

    knn_top: Count = 5
    history_turns: Count = 6


class AnswerSettings(ShopSettings, ReplaySettings, TimeoutSettings, ModelSettings):
    """How one answer is generated: attempts, look-ups and their deadlines, batching, cards."""

    max_attempts: Count = 2
    chunk_batch_size: Count = 3
    cache_budget_ms: Positive = 45
    knn_deadline_ms: Positive = 900
    profile_deadline_ms: Positive = 500
    cards_max: Count = 5
    metrics_namespace: str = "MangaAssist/Streaming"


class CapacitySettings(Group):
    """How much work one orchestrator, and one connection, may have at once, and how long shutting down may take."""

    capacity_answers: Count = 200
    busy_retry_ms: Positive = 1000
    drain_timeout_s: Positive = 30
    max_running_answers: Count = 5
    messages_per_second: Count = 100


class RefreshSettings(Group):
    """Intervals at which an orchestrator reads prompts, the active release and the transition model again."""

    prompt_refresh_s: Positive = 300
    release_refresh_s: Positive = 5
    transition_refresh_s: Positive = 60


class QueryLogSettings(Group):
    """The log of sampled production questions; off without a path."""

    query_log: Path | None = None
    query_log_share: Annotated[float, Field(gt=0, le=1)] = 0.01


class OrchestratorSettings(CapacitySettings, AuthSettings, GatewaySettings, ReplaySettings):
    """What the orchestrator itself reads, apart from the settings of its answers."""
