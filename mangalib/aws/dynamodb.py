"""DynamoDB: the client, paging, and tables of documents that several machines change (optimistic locking)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from mangalib.errors import MangaError
from mangalib.resilience import backoff_pauses
from mangalib.settings import AwsSettings

_CONTENDED_S = 10.0
_BACKOFF_S, _BACKOFF_MAX_S = 0.05, 1.0


def dynamodb_client(settings: AwsSettings) -> Any:
    """A boto3 client of DynamoDB that takes plain Python values; its calls block, threads may share it."""
    quick = Config(connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 2}, max_pool_connections=20)
    session = boto3.Session(region_name=settings.region)
    return session.resource("dynamodb", endpoint_url=settings.aws_url, config=quick).meta.client


def scan(dynamodb: Any, table: str) -> list[dict[str, Any]]:
    """All items of a table, from all its pages (DynamoDB returns at most 1 MB at once). Raises botocore's errors."""
    pages = dynamodb.get_paginator("scan").paginate(TableName=table)
    return [item for page in pages for item in page["Items"]]


class DocumentTable:
    """Items by one key. ``dynamodb`` is a client as of :func:`dynamodb_client`; all calls block.

    Raises ``error`` when the table cannot be reached.
    """

    def __init__(self, dynamodb: Any, name: str, *, key: str, error: type[MangaError]) -> None:
        self._dynamodb = dynamodb
        self._name = name
        self._key = key
        self._error = error

    def get(self, value: str | int) -> dict[str, Any] | None:
        """The item with that key, by a consistent read; ``None`` if there is none."""
        with self._translated():
            answer = self._dynamodb.get_item(TableName=self._name, Key={self._key: value}, ConsistentRead=True)
        item: dict[str, Any] | None = answer.get("Item")
        return item

    def all(self) -> list[dict[str, Any]]:
        """All items."""
        with self._translated():
            return scan(self._dynamodb, self._name)

    def put(self, item: dict[str, Any], *, instead_of: dict[str, Any] | None) -> bool:
        """Write ``item`` if the table still holds ``instead_of`` (``None``: no such item); returns whether it was written.

        Items are compared by their ``body``.
        """
        names, values = {"#key": self._key}, {}
        condition = "attribute_not_exists(#key)"
        if instead_of is not None:
            condition, names, values = "#body = :body", {"#body": "body"}, {":body": instead_of["body"]}
        options: dict[str, Any] = {"ConditionExpression": condition, "ExpressionAttributeNames": names}
        if values:
            options["ExpressionAttributeValues"] = values
        with self._translated():
            try:
                self._dynamodb.put_item(TableName=self._name, Item=item, **options)
            except self._dynamodb.exceptions.ConditionalCheckFailedException:
                return False
        return True

    def attempts(self) -> Iterator[None]:
        """Yield once for each attempt to read, change and ``put`` an item that others change too.

        The first attempt is at once, the others after back-off, for ten seconds in all. Leave the loop when ``put`` succeeds.
        """
        until_s = time.monotonic() + _CONTENDED_S
        for pause_s in backoff_pauses(_BACKOFF_S, _BACKOFF_MAX_S):
            if time.monotonic() >= until_s:
                return
            yield
            time.sleep(pause_s)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (ClientError, BotoCoreError) as error:
            raise self._error(f"table {self._name}: {error}") from error
