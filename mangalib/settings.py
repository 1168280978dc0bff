"""Every figure of the product, once: typed, with its unit in its name, overridable by ``MANGA_<NAME>``.

Values come from environment variables, then from a ``.env`` file in the working directory, then from here.

>>> Settings().pool_size
5
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from mangalib.errors import SettingsError

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


_PROJECT = Path(__file__).resolve().parents[1]


class Settings(BaseSettings):
    """All settings; immutable once read. See :func:`load_settings` for the readable error on a wrong value."""

    model_config = SettingsConfigDict(env_prefix="MANGA_", env_file=".env", extra="ignore", frozen=True)

    # Where things are. `local`: the addresses come from `mangalib up`. `aws`: unset ones come from boto3's own rules.
    target: Literal["local", "aws"] = "local"
    region: str = "us-west-2"
    websocket_url: str | None = None
    management_url: str | None = None
    bedrock_url: str | None = None
    bedrock_ca: Path | None = None
    opensearch_url: str | None = None
    aws_url: str | None = None
    redis_url: str | None = None
    token: SecretStr | None = None
    shop_url: str = "https://shop.mangaassist.example"
    data_dir: Path = _PROJECT / "data"
    orchestrator_host: str = "127.0.0.1"
    orchestrator_port: Annotated[int, Field(ge=0, le=65535)] = 0

    # North star.
    simple_first_token_budget_ms: Positive = 400
    retrieval_first_token_budget_ms: Positive = 1100
    whole_answer_budget_ms: Positive = 3000

    # 1. WebSocket gateway and the session's life.
    idle_timeout_s: Positive = 600
    max_message_bytes: Count = 128 * 1024
    max_frame_bytes: Count = 32 * 1024
    messages_per_second: Count = 100
    max_connections: Count = 10_000
    new_connections_per_second: Count = 500
    connection_lifetime_s: Positive = 7200
    integration_timeout_s: Positive = 29
    max_url_chars: Count = 4096
    session_idle_after_s: Positive = 300
    reconnect_attempts: Count = 3
    reconnect_backoff_ms: Positive = 200
    reconnect_backoff_max_ms: Positive = 3000
    resume_after_silence_s: Positive = 5
    replay_ttl_s: Count = 300
    max_query_chars: Count = 8000
    max_running_answers: Count = 5

    # Who may connect. The algorithm is fixed in serving/auth.py on purpose.
    jwt_secret: SecretStr = SecretStr("")
    jwt_audience: str = "manga-assist"
    jwt_issuer: str = "https://login.mangaassist.example"
    jwt_leeway_s: NonNegative = 5

    # One query, phase by phase.
    intent_budget_ms: Positive = 50
    model_choice_budget_ms: Positive = 5
    cache_budget_ms: Positive = 45
    knn_budget_ms: Positive = 620
    profile_budget_ms: Positive = 180
    prompt_budget_ms: Positive = 20
    haiku_first_token_budget_ms: Positive = 275
    sonnet_first_token_budget_ms: Positive = 350
    frame_budget_ms: Positive = 5
    answer_until_ms: Positive = 2400
    knn_top: Count = 5
    knn_deadline_ms: Positive = 900
    profile_deadline_ms: Positive = 500
    intent_confidence_min: Annotated[float, Field(ge=0, le=1)] = 0.30

    # 2. First-token latency: pool, prompts, warm-up.
    pool_size: Count = 5
    pool_max_size: Count = 256
    pool_shrink_after_s: Positive = 60
    keep_alive_s: Positive = 30
    max_attempts: Count = 2
    throttled_rate_min_per_s: Positive = 10
    connect_timeout_s: Positive = 5
    read_timeout_s: Positive = 60
    acquire_timeout_s: Positive = 5
    prompt_refresh_s: Positive = 300
    prompts_table: str = "manga-prompts"
    customers_table: str = "manga-customers"
    orders_table: str = "manga-orders"
    sessions_table: str = "manga-sessions"
    releases_table: str = "manga-releases"
    incidents_table: str = "manga-incidents"
    release_refresh_s: Positive = 5
    query_log: Path | None = None
    query_log_share: Annotated[float, Field(gt=0, le=1)] = 0.01
    history_turns: Count = 6
    catalogue_index: str = "manga-catalogue"
    haiku_ping_every_s: Positive = 30
    haiku_ping_tokens: Count = 1
    haiku_ping_input_tokens: Count = 9
    sonnet_warm_every_s: Positive = 300
    sonnet_warm_tokens: Count = 10
    sonnet_warm_input_tokens: Count = 31
    sonnet_stream_every_s: Positive = 900
    sonnet_stream_tokens: Count = 100
    sonnet_stream_input_tokens: Count = 21
    haiku_ping_month_usd: Positive = 0.30
    sonnet_warm_month_usd: Positive = 2.10
    sonnet_stream_month_usd: Positive = 4.50
    warmup_month_usd: Positive = 6.90
    haiku_input_usd_per_mtok: Positive = 0.25
    haiku_output_usd_per_mtok: Positive = 1.25
    sonnet_input_usd_per_mtok: Positive = 3
    sonnet_output_usd_per_mtok: Positive = 15
    haiku_model_id: str = "anthropic.claude-3-haiku-20240307-v1:0"
    sonnet_model_id: str = "anthropic.claude-3-sonnet-20240229-v1:0"
    embedding_model_id: str = "amazon.titan-embed-text-v2:0"
    embedding_dimensions: Literal[256, 512, 1024] = 512
    max_answer_tokens: Count = 1024

    # 3. Streaming manager and sender; what one orchestrator takes on, and how it bears what fails.
    capacity_answers: Count = 200
    busy_retry_ms: Positive = 1000
    drain_timeout_s: Positive = 30
    breaker_failures: Count = 5
    breaker_pause_s: Positive = 1
    retry_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    retry_burst: Count = 50
    hedge_share: Annotated[float, Field(ge=0, le=1)] = 0.02
    hedge_burst: Count = 5
    hedge_quantile: Annotated[float, Field(gt=0, lt=1)] = 0.95
    hedge_answers: Count = 200
    hedge_answers_min: Count = 20
    chunk_batch_size: Count = 3
    stream_timeout_s: Positive = 30
    send_timeout_s: Positive = 5
    send_attempts: Count = 5
    send_backoff_ms: Positive = 50
    management_pool_size: Count = 5
    management_pool_max_size: Count = 64
    replay_timeout_ms: Positive = 250
    redis_connections: Count = 100
    metrics_namespace: str = "MangaAssist/Streaming"

    # 4. Progressive rendering: what is on the screen by when.
    instant_until_ms: Positive = 100
    context_until_ms: Positive = 700
    description_title_ms: Positive = 900
    description_text_ms: Positive = 2000
    description_card_ms: Positive = 2300
    description_purchase_ms: Positive = 2400
    list_introduction_ms: Positive = 1000
    list_first_title_ms: Positive = 1400
    list_second_title_ms: Positive = 1800
    list_third_title_ms: Positive = 2200
    list_cards_ms: Positive = 2500
    cards_max: Count = 5
    exchanges_max: Count = 100
    timeline_rows_max: Count = 5_000

    # 5. Pre-computation: what comes next, what is worth making, and answers kept for everybody.
    answers_ahead: bool = True
    transition_model: Path = _PROJECT / "data" / "transitions.json"
    transition_order: Annotated[int, Field(ge=1, le=4)] = 4
    transition_half_life_days: Positive = 60
    transition_refresh_s: Positive = 60
    session_events_max: Count = 200
    follow_up_ttl_s: Count = 300
    follow_up_candidates: Count = 4
    follow_up_answer_tokens: Count = 160
    follow_up_session_tokens: Count = 8_000
    precompute_hour_tokens: Count = 400_000
    warming_hour_tokens: Count = 100_000
    second_saved_usd: Positive = 0.001
    background_pool_size: Count = 4
    background_quiet_s: NonNegative = 0.5
    precomputed_first_token_ms: Positive = 100
    prefetch_first_token_ms: Positive = 150
    inquiry_hit_rate: Annotated[float, Field(gt=0, le=1)] = 0.38
    recommendation_hit_rate: Annotated[float, Field(gt=0, le=1)] = 0.31
    order_hit_rate: Annotated[float, Field(gt=0, le=1)] = 0.45
    browse_hit_rate: Annotated[float, Field(gt=0, le=1)] = 0.27
    average_hit_rate: Annotated[float, Field(gt=0, le=1)] = 0.34
    trending_titles: Count = 20
    trending_half_life_h: Positive = 24
    trending_every_s: Positive = 300
    refresh_ahead_s: Positive = 600
    flight_timeout_s: Positive = 30
    held_out_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    cache_fresh_s: Count = 3_600
    cache_stale_max_s: Count = 4_200
    cache_entries_max: Count = 100_000
    cache_neighbours: Count = 20
    cache_support_min: Count = 2
    cache_typicality_min: Annotated[float, Field(ge=0, lt=1)] = 0.1
    cache_false_hits_max: Annotated[float, Field(gt=0, lt=1)] = 0.01
    cache_learn_questions: Count = 20_000
    cache_sync_s: Positive = 0.5

    # 6. Benchmark: a run, its baseline, and when a change counts. Bands are shares: 0.25 is 25 % over.
    benchmark_every_s: Positive = 900
    per_intent: Count = 50
    discarded_per_intent: Annotated[int, Field(ge=0)] = 5
    benchmark_rate_per_s: Positive = 8
    follow_up_after_s: Positive = 4
    follow_up_share: Annotated[float, Field(ge=0, le=1)] = 0.3
    japanese_share: Annotated[float, Field(ge=0, le=1)] = 0.3
    title_zipf_exponent: NonNegative = 1.0
    connect_ahead_s: Positive = 2
    pagerduty_url: str = "https://events.pagerduty.com/v2/enqueue"
    pagerduty_routing_key: SecretStr | None = None
    sns_topic_arn: str | None = None
    page_timeout_s: Positive = 10
    page_attempts: Count = 5
    page_backoff_s: Positive = 0.5
    clock_tolerance_s: Positive = 60
    benchmark_timeout_s: Positive = 35
    benchmark_seed: int = 1
    store: str = str(_PROJECT / "papermill_runs" / "benchmark")
    baseline_days: Positive = 7
    look_back_days: Positive = 35
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

    # 7. What each of the ten optimisations is expected to save.
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

    # 8. Jobs: notebooks on a schedule. Leases of the jobs: files beside the runs, or what several machines share.
    job_leases: Literal["file", "redis", "dynamodb"] = "file"
    jobs_table: str = "manga-jobs"
    runs_url: str = str(_PROJECT / "papermill_runs")
    jobs_metrics_namespace: str = "MangaAssist/Jobs"
    job_lease_s: Positive = 60
    job_timeout_s: Positive = 900
    keep_runs_days: Positive = 90
    keep_runs: Count = 3_000
    evening_peak_hour_jst: Annotated[int, Field(ge=0, le=23)] = 20

    # The local stand-ins' model of latency (medians; log-normal). These are assumptions, not measurements.
    local_dir: Path = Path()
    local_seed: int = 1
    local_haiku_first_token_ms: NonNegative = 275
    local_sonnet_first_token_ms: NonNegative = 350
    local_first_token_sigma: NonNegative = 0.15
    local_inter_token_ms: NonNegative = 11
    local_inter_token_sigma: NonNegative = 0.3
    local_embedding_ms: NonNegative = 40
    local_knn_ms: NonNegative = 520
    local_knn_sigma: NonNegative = 0.05
    local_cold_min_ms: NonNegative = 200
    local_cold_max_ms: NonNegative = 500
    local_cold_after_s: Positive = 300
    local_daily_cycle: Annotated[float, Field(ge=0, lt=1)] = 0.10
    local_idle_close_s: Positive = 60
    local_client_buffer_bytes: Count = 128 * 1024


def load_settings(**overrides: object) -> Settings:
    """Read the settings.

    Raises
    ------
    SettingsError
        Names each wrong variable, its value (never that of a secret) and what is allowed.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        lines = [_describe(str(e["loc"][0]), e["input"], e["msg"]) for e in error.errors()]
        raise SettingsError("; ".join(lines)) from None


def _describe(name: str, value: object, expected: str) -> str:
    secret = name in {"jwt_secret", "token", "pagerduty_routing_key"}
    return f"MANGA_{name.upper()}={'***' if secret else repr(value)}: {expected}"


def environment(values: dict[str, object]) -> dict[str, str]:
    """The environment for a child process in which ``values`` (setting name to value) hold."""
    unknown = values.keys() - Settings.model_fields.keys()
    if unknown:
        raise SettingsError(f"no such settings: {', '.join(sorted(unknown))}")
    return {**os.environ, **{f"MANGA_{name.upper()}": str(value) for name, value in values.items()}}
