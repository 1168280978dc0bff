"""The benchmark: workload, baseline, severity bands, paging."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr

from mangalib.settings.addresses import AwsSettings, DataSettings, TableSettings
from mangalib.settings.budgets import BudgetSettings
from mangalib.settings.group import Count, Group, NonNegative, Positive, Share, output_folder
from mangalib.settings.serving import RefreshSettings


class WorkloadSettings(DataSettings):
    """The queries of one run: how many, how fast, of which kind."""

    per_intent: Count = 50
    discarded_per_intent: Annotated[int, Field(ge=0)] = 5
    benchmark_rate_per_s: Positive = 8
    follow_up_after_s: Positive = 4
    follow_up_share: Share = 0.3
    japanese_share: Share = 0.3
    title_zipf_exponent: NonNegative = 1.0
    connect_ahead_s: Positive = 2
    clock_tolerance_s: Positive = 60
    benchmark_timeout_s: Positive = 35
    benchmark_seed: int = 1


class StoreSettings(AwsSettings):
    """The benchmark store, and how far back a verdict reads it."""

    store: str = str(output_folder() / "benchmark")
    look_back_days: Positive = 35


class DetectorSettings(BudgetSettings, StoreSettings):
    """The baseline, and the severity bands as relative excess: 0.25 means 25 % over the baseline."""

    baseline_days: Positive = 7
    improvement_lasts_h: Positive = 24
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    effect_size_min: NonNegative = 0.5
    p95_sev3: Positive = 0.10
    p95_sev2: Positive = 0.25
    p95_sev1: Positive = 0.50
    target_sev3: Positive = 0.15
    target_sev2: Positive = 0.30
    target_sev1: Positive = 0.60
    errors_sev3: Positive = 0.01
    errors_sev2: Positive = 0.03
    errors_sev1: Positive = 0.10


class SavingSettings(Group):
    """The expected saving of each of the ten optimisations, per query."""

    expected_warm_pool_saving_ms: Positive = 150
    expected_prompts_saving_ms: Positive = 50
    expected_warmup_saving_ms: Positive = 200
    expected_fan_out_saving_ms: Positive = 400
    expected_batching_saving_share: Positive = 0.15
    expected_follow_up_saving_ms: Positive = 1500
    expected_status_saving_ms: Positive = 500
    expected_routing_saving_ms: Positive = 600
    expected_cache_saving_ms: Positive = 2000
    expected_trending_saving_ms: Positive = 1200


class AblationSettings(SavingSettings, RefreshSettings):
    """What an ablation needs: the expected savings, and when orchestrators follow a release."""


class PagerSettings(AwsSettings):
    """PagerDuty and SNS: addresses, time-out, attempts."""

    pagerduty_url: str = "https://events.pagerduty.com/v2/enqueue"
    pagerduty_routing_key: SecretStr | None = None
    sns_topic_arn: str | None = None
    page_timeout_s: Positive = 10
    page_attempts: Count = 5
    page_backoff_s: Positive = 0.5


class IncidentSettings(PagerSettings, TableSettings):
    """Where incidents and releases are kept, who is paged, and the interval between two runs."""

    benchmark_every_s: Positive = 900
