"""Models: ids, prices, warm-up."""

from __future__ import annotations

from typing import Literal

from mangalib.settings.group import Count, Group, Positive


class ModelSettings(Group):
    """Model ids, size of the embedding, and prices in US dollars per million tokens."""

    haiku_model_id: str = "anthropic.claude-3-haiku-20240307-v1:0"
    sonnet_model_id: str = "anthropic.claude-3-sonnet-20240229-v1:0"
    embedding_model_id: str = "amazon.titan-embed-text-v2:0"
    embedding_dimensions: Literal[256, 512, 1024] = 512
    max_answer_tokens: Count = 1024
    haiku_input_usd_per_mtok: Positive = 0.25
    haiku_output_usd_per_mtok: Positive = 1.25
    sonnet_input_usd_per_mtok: Positive = 3
    sonnet_output_usd_per_mtok: Positive = 15


class WarmupSettings(ModelSettings):
    """The three tiers of warm-up calls, and the specification's monthly cost of each."""

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
