"""Connections, time-outs, retries."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mangalib.settings.group import Count, Group, Positive, Share


class TimeoutSettings(Group):
    """Time-outs of single steps: connecting, one read, one whole answer, sending one frame."""

    connect_timeout_s: Positive = 5
    read_timeout_s: Positive = 60
    stream_timeout_s: Positive = 30
    send_timeout_s: Positive = 5


class PoolSettings(TimeoutSettings):
    """The warm connection pools: to Bedrock, to the gateway, and one for background work."""

    pool_size: Count = 5
    pool_max_size: Count = 256
    pool_shrink_after_s: Positive = 60
    keep_alive_s: Positive = 30
    acquire_timeout_s: Positive = 5
    management_pool_size: Count = 5
    management_pool_max_size: Count = 64
    background_pool_size: Count = 4


class ResilienceSettings(Group):
    """Attempts, back-off, circuit breakers, retry budgets, adaptive rate."""

    throttled_rate_min_per_s: Positive = 10
    breaker_failures: Count = 5
    breaker_pause_s: Positive = 1
    retry_share: Share = 0.1
    retry_burst: Count = 50
    send_attempts: Count = 5
    send_backoff_ms: Positive = 50


class HedgeSettings(Group):
    """When a second request is sent to a late model, and for which share of all requests."""

    hedge_share: Share = 0.02
    hedge_burst: Count = 5
    hedge_quantile: Annotated[float, Field(gt=0, lt=1)] = 0.95
    hedge_answers: Count = 200
    hedge_answers_min: Count = 20


class TransportSettings(PoolSettings, ResilienceSettings):
    """What a client of an AWS service over our own HTTP/1.1 reads."""
