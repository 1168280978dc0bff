"""Look-ups for an answer: similar titles, and the customer's own data."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import msgspec
from opensearchpy import AsyncOpenSearch

from mangalib.aws import Embedding, EmbeddingRequest, ModelTransport, Turn
from mangalib.domain import Manga
from mangalib.settings import SearchSettings

_T = TypeVar("_T")


class TitleSearch:
    """k-NN over the catalogue: the query is embedded by a model and compared by OpenSearch."""

    def __init__(self, opensearch: AsyncOpenSearch, settings: SearchSettings) -> None:
        self._opensearch = opensearch
        self._settings = settings

    async def nearest(self, text: str, models: ModelTransport) -> list[Manga]:
        """The ``knn_top`` titles nearest to ``text``, the nearest first."""
        settings = self._settings
        request = EmbeddingRequest(text, settings.embedding_dimensions)
        answer = await models.invoke(settings.embedding_model_id, request)
        vector = msgspec.json.decode(answer, type=Embedding).embedding
        query = {"size": settings.knn_top, "query": {"knn": {"embedding": {"vector": vector, "k": settings.knn_top}}}}
        found = await self._opensearch.search(
            index=settings.catalogue_index, body=query, _source_excludes=["embedding"]
        )
        return [msgspec.convert(hit["_source"], Manga) for hit in found["hits"]["hits"]]


class Customer(msgspec.Struct, frozen=True):
    """What the shop knows of a customer, and the conversation so far in this session."""

    name: str = ""
    favourite_genres: list[str] = []
    orders: list[dict[str, Any]] = []
    history: list[Turn] = []


class Reads(msgspec.Struct, frozen=True):
    """Which of the three reads of a customer's data an answer needs."""

    profile: bool = True
    orders: bool = True
    history: bool = True


class CustomerData:
    """Profiles, orders and conversations in DynamoDB.

    ``dynamodb`` is a boto3 client that takes plain Python values; it is used in this object's own worker threads.
    """

    def __init__(self, dynamodb: Any, settings: SearchSettings) -> None:
        self._dynamodb = dynamodb
        self._settings = settings
        self._threads = ThreadPoolExecutor(max_workers=16, thread_name_prefix="customer-data")

    async def fetch(self, customer: str, session_id: str, reads: Reads) -> Customer:
        """What ``reads`` names, side by side."""

        async def profile() -> dict[str, Any]:
            return await self._in_thread(self._profile, customer) if reads.profile else {}

        async def orders() -> list[dict[str, Any]]:
            return await self.orders(customer) if reads.orders else []

        async def history() -> list[Turn]:
            return await self.history(customer, session_id) if reads.history else []

        known, ordered, turns = await asyncio.gather(profile(), orders(), history())
        return Customer(
            name=str(known.get("name", "")),
            favourite_genres=[str(genre) for genre in known.get("favourite_genres", [])],
            orders=ordered,
            history=turns,
        )

    async def history(self, customer: str, session_id: str) -> list[Turn]:
        """The conversation so far."""
        return await self._in_thread(self._history, customer, session_id)

    async def remember(self, customer: str, session_id: str, history: list[Turn]) -> None:
        """Keep the last turns of the conversation."""
        kept = msgspec.json.encode(history[-self._settings.history_turns :]).decode()
        item = {"customer": customer, "session_id": session_id, "turns": kept}
        put = partial(self._dynamodb.put_item, TableName=self._settings.sessions_table, Item=item)
        await self._in_thread(put)

    async def orders(self, customer: str) -> list[dict[str, Any]]:
        """The customer's three newest orders."""
        return await self._in_thread(self._orders, customer)

    def close(self) -> None:
        """Stop the worker threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, function: Callable[..., _T], *arguments: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    def _profile(self, customer: str) -> dict[str, Any]:
        key = {"customer": customer}
        found = self._dynamodb.get_item(TableName=self._settings.customers_table, Key=key)
        return dict(found.get("Item", {}))

    def _history(self, customer: str, session_id: str) -> list[Turn]:
        key = {"customer": customer, "session_id": session_id}
        found = self._dynamodb.get_item(TableName=self._settings.sessions_table, Key=key)
        return msgspec.json.decode(str(found.get("Item", {}).get("turns", "[]")), type=list[Turn])

    def _orders(self, customer: str) -> list[dict[str, Any]]:
        found = self._dynamodb.query(
            TableName=self._settings.orders_table,
            KeyConditionExpression="customer = :customer",
            ExpressionAttributeValues={":customer": customer},
            ScanIndexForward=False,
            Limit=3,
        )["Items"]
        return [{name: str(value) for name, value in order.items()} for order in found]
