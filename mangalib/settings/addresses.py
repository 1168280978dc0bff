"""Where things are, and what they are called there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr

from mangalib.settings.group import PROJECT, Count, Group


class AwsSettings(Group):
    """Where AWS is: the region, and one URL for all of boto3's services where a stand-in takes their place."""

    region: str = "us-west-2"
    aws_url: str | None = None


class DataSettings(Group):
    """Where the project's own data files lie: catalogue, prompts, topics, query templates."""

    data_dir: Path = PROJECT / "data"


class AddressSettings(AwsSettings, DataSettings):
    """The addresses. With `local` they come from `mangalib up`; with `aws`, unset ones come from boto3's own rules."""

    target: Literal["local", "aws"] = "local"
    websocket_url: str | None = None
    management_url: str | None = None
    bedrock_url: str | None = None
    bedrock_ca: Path | None = None
    opensearch_url: str | None = None
    redis_url: str | None = None
    redis_connections: Count = 100
    token: SecretStr | None = None
    orchestrator_host: str = "127.0.0.1"
    orchestrator_port: Annotated[int, Field(ge=0, le=65535)] = 0


class TableSettings(Group):
    """Names of the DynamoDB tables and of the search index."""

    prompts_table: str = "manga-prompts"
    customers_table: str = "manga-customers"
    orders_table: str = "manga-orders"
    sessions_table: str = "manga-sessions"
    releases_table: str = "manga-releases"
    incidents_table: str = "manga-incidents"
    jobs_table: str = "manga-jobs"
    catalogue_index: str = "manga-catalogue"


class ShopSettings(Group):
    """Where the shop is, for links to its titles."""

    shop_url: str = "https://shop.mangaassist.example"
