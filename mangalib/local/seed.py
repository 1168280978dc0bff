"""Fills the local services with the data that the product expects, from the files in ``data/``."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import msgspec
from botocore.config import Config
from opensearchpy import OpenSearch
from opensearchpy.helpers import bulk
from redis.asyncio import Redis

from mangalib.aws import DocumentTable
from mangalib.domain import Catalogue, Intent, Manga, Release, ReleaseStore
from mangalib.errors import DataError, ReleaseError
from mangalib.nlu import MeaningReader
from mangalib.precompute import SEMANTIC, GeneratedAnswer, SharedAnswers, own_label, publish_facts
from mangalib.settings import SeedSettings

DEMO_CUSTOMER = "demo-customer"


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file; raises ``DataError`` with the number of an invalid line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    objects = []
    for number, line in enumerate(lines, start=1):
        try:
            objects.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}: {error}") from None
    return objects


def seed_dynamodb(settings: SeedSettings) -> None:
    """Create the tables, fill those of prompts, customers and orders, and activate a first release."""
    dynamodb = boto3.Session(region_name=settings.region).resource("dynamodb", endpoint_url=settings.aws_url)
    tables = {
        settings.prompts_table: (("intent", "S"), ("version", "N"), "prompts.jsonl"),
        settings.customers_table: (("customer", "S"), None, "customers.jsonl"),
        settings.orders_table: (("customer", "S"), ("order_id", "S"), "orders.jsonl"),
        settings.sessions_table: (("customer", "S"), ("session_id", "S"), None),
        settings.releases_table: (("release", "N"), None, None),
        settings.incidents_table: (("incident", "S"), None, None),
        settings.jobs_table: (("job", "S"), None, None),
    }
    for name, (hash_key, range_key, file) in tables.items():
        keys = [key for key in (hash_key, range_key) if key is not None]
        table = dynamodb.create_table(
            TableName=name,
            KeySchema=[
                {"AttributeName": key, "KeyType": kind} for (key, _), kind in zip(keys, ("HASH", "RANGE"), strict=False)
            ],
            AttributeDefinitions=[{"AttributeName": key, "AttributeType": kind} for key, kind in keys],
            BillingMode="PAY_PER_REQUEST",
        )
        if file is not None:
            with table.batch_writer() as batch:
                for item in read_json_lines(settings.data_dir / file):
                    batch.put_item(item)

    releases = ReleaseStore(
        DocumentTable(dynamodb.meta.client, settings.releases_table, key="release", error=ReleaseError)
    )
    releases.activate(releases.create(Release(note="as built")).number, "the first")


def seed_opensearch(settings: SeedSettings) -> None:
    """Index the catalogue, each title with its embedding from Bedrock."""
    bedrock = boto3.Session(region_name=settings.region).client(
        "bedrock-runtime",
        endpoint_url=settings.bedrock_url,
        verify=str(settings.bedrock_ca),
        config=Config(max_pool_connections=8),
    )
    opensearch = OpenSearch(settings.opensearch_url)
    vector = {"type": "knn_vector", "dimension": settings.embedding_dimensions}
    opensearch.indices.create(index=settings.catalogue_index, body={"mappings": {"properties": {"embedding": vector}}})

    def document(item: Manga) -> dict[str, Any]:
        body = {"inputText": item.description, "dimensions": settings.embedding_dimensions, "normalize": True}
        answer = bedrock.invoke_model(modelId=settings.embedding_model_id, body=json.dumps(body))
        embedding = json.loads(answer["body"].read())["embedding"]
        source = {**msgspec.to_builtins(item), "embedding": embedding}
        return {"_index": settings.catalogue_index, "_id": item.manga_id, "_source": source}

    items = Catalogue.load(settings.data_dir / "catalogue.csv").items
    with ThreadPoolExecutor(8) as threads:
        bulk(opensearch, threads.map(document, items))
    opensearch.close()
    bedrock.close()


async def seed_redis(settings: SeedSettings) -> None:
    """Publish the facts of all titles and the shop's approved shared answers."""
    redis = Redis.from_url(settings.redis_url or "")
    catalogue = Catalogue.load(settings.data_dir / "catalogue.csv")
    await publish_facts(redis, catalogue.items)
    reader = MeaningReader(catalogue)
    shared = SharedAnswers(redis, reader, settings)
    for line in read_json_lines(settings.data_dir / "shared_answers.jsonl"):
        question, intent = line["question"], Intent(line["intent"])
        meaning = reader.read(question)
        approved = GeneratedAnswer(line["answer"], intent, SEMANTIC)
        await shared.put(intent, own_label(question, meaning), meaning, question, approved)
    await redis.aclose()
