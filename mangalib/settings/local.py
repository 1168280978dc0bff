"""The local stand-ins of the AWS services."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from mangalib.settings.addresses import AddressSettings, AwsSettings, DataSettings, TableSettings
from mangalib.settings.group import Count, Group, NonNegative, Positive
from mangalib.settings.models import ModelSettings
from mangalib.settings.session import AuthSettings, ChatSettings, GatewaySettings
from mangalib.settings.understanding import CacheSettings


class LocalSettings(Group):
    """Folder, seed and latency model of the stand-ins: medians and sigmas of log-normal distributions, assumed, not measured."""

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


class SeedSettings(ModelSettings, CacheSettings, AddressSettings, TableSettings):
    """What the stand-ins' data are, and where they go."""


class LocalBedrockSettings(ModelSettings, DataSettings, AwsSettings, LocalSettings):
    """What the Bedrock stand-in reads."""


class LocalGatewaySettings(ChatSettings, AuthSettings, GatewaySettings, DataSettings, AwsSettings, LocalSettings):
    """What the gateway stand-in and the chat's page beside it read."""
