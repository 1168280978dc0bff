"""A DynamoDB table of documents that several machines change: every change says what it changes from."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from mangalib.errors import MangaError
from mangalib.settings import AwsSettings

_CONTENDED_S = 10.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.05, 1.0


def dynamodb_client(settings: AwsSettings) -> Any:
    """A boto3 client of DynamoDB that takes plain Python values; blocking, safe to share between threads."""
    quick = Config(connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 2}, max_pool_connections=20)
    session = boto3.Session(region_name=settings.region)
    return session.resource("dynamodb", endpoint_url=settings.aws_url, config=quick).meta.client


class DocumentTable:
    """Items by one key. ``dynamodb`` is a boto3 client that takes plain Python values; all calls block.

    Raises ``error`` when the table cannot be reached.
    """

    def __init__(self, dynamodb: Any, name: str, *, key: str, error: type[MangaError]) -> None:
        self._dynamodb = dynamodb
        self._name = name
        self._key = key
        self._error = error

    def get(self, value: str | int) -> dict[str, Any] | None:
        """The item as it is now, not as it was a moment ago."""
        item: dict[str, Any] | None = self._call("get_item", Key={self._key: value}, ConsistentRead=True).get("Item")
        return item

    def all(self) -> list[dict[str, Any]]:
        """Every item, page by page."""
        items: list[dict[str, Any]] = []
        more: dict[str, Any] = {}
        while True:
            page = self._call("scan", **more)
            items += page["Items"]
            if "LastEvaluatedKey" not in page:
                return items
            more = {"ExclusiveStartKey": page["LastEvaluatedKey"]}

    def put(self, item: dict[str, Any], *, instead_of: dict[str, Any] | None) -> bool:
        """Write ``item`` if what is there is still ``instead_of`` (``None``: nothing); whether it was written.

        Items are compared by their ``body``.
        """
        names, values = {"#key": self._key}, {}
        condition = "attribute_not_exists(#key)"
        if instead_of is not None:
            condition, names, values = "#body = :body", {"#body": "body"}, {":body": instead_of["body"]}
        options: dict[str, Any] = {"ConditionExpression": condition, "ExpressionAttributeNames": names}
        if values:
            options["ExpressionAttributeValues"] = values
        try:
            self._call("put_item", Item=item, **options)
        except self._dynamodb.exceptions.ConditionalCheckFailedException:
            return False
        return True

    def attempts(self) -> Iterator[None]:
        """Turns to read, change and ``put`` again what others change too: the first at once, the next after growing random
        waits ("full jitter", Brooker 2015), for ten seconds. Leave the loop when written; it ends when none was."""
        until_s = time.monotonic() + _CONTENDED_S
        longest_s = _FIRST_WAIT_S
        while time.monotonic() < until_s:
            yield
            time.sleep(random.uniform(0, longest_s))
            longest_s = min(2 * longest_s, _LONGEST_WAIT_S)

    def _call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = getattr(self._dynamodb, operation)(TableName=self._name, **arguments)
        except self._dynamodb.exceptions.ConditionalCheckFailedException:
            raise
        except (ClientError, BotoCoreError) as error:
            raise self._error(f"table {self._name}: {error}") from error
        return answer
