"""Addresses of services, names of tables, folders of data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import DirectoryPath, Field, SecretStr

from mangalib.settings.group import Count, Group, project_folder


class AwsSettings(Group):
    """The AWS region, and one URL that replaces the endpoints of all of boto3's services (local stack)."""

    region: str = "us-west-2"
    aws_url: str | None = None


class DataSettings(Group):
    """The folder of the data files: catalogue, prompts, topics, query templates."""

    data_dir: DirectoryPath = project_folder() / "data"


class AddressSettings(AwsSettings):
    """Addresses of all services. With target ``local``, ``mangalib up`` sets them; with ``aws``, boto3 finds the unset ones."""

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
    """Names of the DynamoDB tables and of the OpenSearch index."""

    prompts_table: str = "manga-prompts"
    customers_table: str = "manga-customers"
    orders_table: str = "manga-orders"
    sessions_table: str = "manga-sessions"
    releases_table: str = "manga-releases"
    incidents_table: str = "manga-incidents"
    jobs_table: str = "manga-jobs"
    catalogue_index: str = "manga-catalogue"


class ShopSettings(Group):
    """The shop's address, for links to titles."""

    shop_url: str = "https://shop.mangaassist.example"
