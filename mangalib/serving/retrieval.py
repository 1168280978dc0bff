"""What is looked up for an answer: similar titles, and the customer's own data."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import msgspec
from opensearchpy import AsyncOpenSearch

from mangalib.aws import BedrockRuntime, Turn
from mangalib.domain import Manga
from mangalib.settings import Settings


class TitleSearch:
    """k-NN over the catalogue: the query is embedded by Bedrock and compared by OpenSearch."""

    def __init__(self, bedrock: BedrockRuntime, opensearch: AsyncOpenSearch, settings: Settings) -> None:
        self._bedrock = bedrock
        self._opensearch = opensearch
        self._settings = settings

    async def nearest(self, text: str, *, warm: bool = True) -> list[Manga]:
        """The ``knn_top`` titles nearest to ``text``, the nearest first."""
        settings = self._settings
        vector = await self._bedrock.embed(
            settings.embedding_model_id, text, dimensions=settings.embedding_dimensions, warm=warm
        )
        query = {"size": settings.knn_top, "query": {"knn": {"embedding": {"vector": vector, "k": settings.knn_top}}}}
        found = await self._opensearch.search(
            index=settings.catalogue_index, body=query, _source_excludes=["embedding"]
        )
        return [msgspec.convert(hit["_source"], Manga) for hit in found["hits"]["hits"]]


class Customer(msgspec.Struct, frozen=True):
    """What the shop knows of a customer, and what was said before in this session."""

    name: str = ""
    favourite_genres: list[str] = []
    orders: list[dict[str, Any]] = []
    history: list[Turn] = []


class CustomerData:
    """Profiles, orders and conversations in DynamoDB: ``dynamodb`` is a boto3 client that takes plain Python values,
    used in worker threads of this object's own."""

    def __init__(self, dynamodb: Any, settings: Settings) -> None:
        self._dynamodb = dynamodb
        self._settings = settings
        self._threads = ThreadPoolExecutor(max_workers=16, thread_name_prefix="customer-data")

    async def fetch(self, customer: str, session_id: str) -> Customer:
        """Everything about the customer that an answer may use."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._fetch, customer, session_id)

    async def remember(self, customer: str, session_id: str, history: list[Turn]) -> None:
        """Keep the last turns of the conversation."""
        kept = msgspec.json.encode(history[-self._settings.history_turns :]).decode()
        item = {"customer": customer, "session_id": session_id, "turns": kept}
        put = partial(self._dynamodb.put_item, TableName=self._settings.sessions_table, Item=item)
        await asyncio.get_running_loop().run_in_executor(self._threads, put)

    async def orders(self, customer: str) -> list[dict[str, Any]]:
        """The customer's newest orders as they are now."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._orders, customer)

    def close(self) -> None:
        """Let the worker threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _fetch(self, customer: str, session_id: str) -> Customer:
        dynamodb, settings = self._dynamodb, self._settings
        profile = dynamodb.get_item(TableName=settings.customers_table, Key={"customer": customer}).get("Item", {})
        key = {"customer": customer, "session_id": session_id}
        session = dynamodb.get_item(TableName=settings.sessions_table, Key=key).get("Item", {})
        return Customer(
            name=str(profile.get("name", "")),
            favourite_genres=[str(genre) for genre in profile.get("favourite_genres", [])],
            orders=self._orders(customer),
            history=msgspec.json.decode(str(session.get("turns", "[]")), type=list[Turn]),
        )

    def _orders(self, customer: str) -> list[dict[str, Any]]:
        found = self._dynamodb.query(
            TableName=self._settings.orders_table,
            KeyConditionExpression="customer = :customer",
            ExpressionAttributeValues={":customer": customer},
            ScanIndexForward=False,
            Limit=3,
        )["Items"]
        return [{name: str(value) for name, value in order.items()} for order in found]
