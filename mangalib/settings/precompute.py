"""Pre-computation: prediction of follow-ups, warming, token budgets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from mangalib.settings.addresses import AwsSettings
from mangalib.settings.benchmark import SavingSettings
from mangalib.settings.group import Count, Group, NonNegative, Positive, project_folder, trained_folder
from mangalib.settings.models import ModelSettings
from mangalib.settings.serving import ReplaySettings
from mangalib.settings.understanding import CacheSettings


class PredictionSettings(Group):
    """The transition model and the session logs it is trained on."""

    transition_model: Path = trained_folder() / "transitions.json"
    transition_order: Annotated[int, Field(ge=1, le=4)] = 4
    transition_half_life_days: Positive = 60
    session_events_max: Count = 200

    @property
    def live_transition_model(self) -> Path:
        """The file to read: ``transition_model``, and in place of the default until one was trained, the package's own."""
        packaged = project_folder() / "data" / "transitions.json"
        is_default = self.transition_model == trained_folder() / "transitions.json"
        return packaged if is_default and not self.transition_model.exists() else self.transition_model


class TrainingSettings(PredictionSettings, AwsSettings):
    """Training on logs in a folder or under an ``s3://`` prefix."""


class FollowUpSettings(PredictionSettings):
    """Follow-up answers generated for one session, and their token budgets."""

    follow_up_ttl_s: Count = 300
    follow_up_candidates: Count = 4
    follow_up_answer_tokens: Count = 160
    follow_up_session_tokens: Count = 8_000
    precompute_hour_tokens: Count = 400_000
    second_saved_usd: Positive = 0.001


class WarmingSettings(Group):
    """Shared answers, generated in the background."""

    warming_hour_tokens: Count = 100_000
    trending_titles: Count = 20
    trending_half_life_h: Positive = 24
    trending_every_s: Positive = 300
    refresh_ahead_s: Positive = 600
    held_out_share: Annotated[float, Field(ge=0, lt=1)] = 0.1


class HitRateSettings(Group):
    """The specification's hit rates, and its first-token latencies on a hit."""

    precomputed_first_token_ms: Positive = 100
    prefetch_first_token_ms: Positive = 150
    inquiry_hit_rate: Annotated[float, Field(gt=0, le=1)] = 0.38
    recommendation_hit_rate: Annotated[float, Field(gt=0, le=1)] = 0.31
    order_hit_rate: Annotated[float, Field(gt=0, le=1)] = 0.45
    browse_hit_rate: Annotated[float, Field(gt=0, le=1)] = 0.27
    average_hit_rate: Annotated[float, Field(gt=0, le=1)] = 0.34


class CandidateSettings(FollowUpSettings, SavingSettings, ModelSettings):
    """What decides which follow-ups are worth generating: budgets, the value of a second, the cost of tokens."""


class SingleFlightSettings(ReplaySettings):
    """How long one generation of an answer may take, and one step of it in Redis."""

    flight_timeout_s: Positive = 30


class PrecomputeSettings(SingleFlightSettings, CandidateSettings, WarmingSettings, CacheSettings):
    """Everything that pre-computation reads: whether anything is generated ahead, and when background work yields."""

    answers_ahead: bool = True
    background_quiet_s: NonNegative = 0.5
