"""DynamoDB: all pages of a scan, errors of the caller's type, conditional writes. The client is a fake."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from mangalib.aws.dynamodb import DocumentTable, scan
from mangalib.errors import ReleaseError


class ConditionFailedError(Exception):
    """What a boto3 client raises when the condition of a write does not hold."""


class Client:
    """Pages of items, a write that succeeds or fails, or a service that cannot be reached."""

    exceptions = SimpleNamespace(ConditionalCheckFailedException=ConditionFailedError)

    def __init__(self, pages: list[list[dict[str, Any]]] | None = None, *, error: Exception | None = None) -> None:
        self.pages = pages or []
        self.error = error
        self.written: dict[str, Any] = {}

    def get_paginator(self, operation: str) -> Client:
        assert operation == "scan"
        return self

    def paginate(self, TableName: str) -> Iterator[dict[str, Any]]:  # noqa: N803 - boto3's name
        for page in self.pages:
            self._fail()
            yield {"Items": page}

    def get_item(self, **arguments: Any) -> dict[str, Any]:
        self._fail()
        assert arguments["ConsistentRead"]
        return {"Item": self.pages[0][0]} if self.pages else {}

    def put_item(self, **arguments: Any) -> None:
        self._fail()
        self.written = arguments

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error


UNREACHABLE = EndpointConnectionError(endpoint_url="http://dynamodb")


def table_of(client: Client) -> DocumentTable:
    return DocumentTable(client, "releases", key="release", error=ReleaseError)


def test_a_scan_returns_the_items_of_all_pages_in_order() -> None:
    assert scan(Client([[{"n": 1}, {"n": 2}], [], [{"n": 3}]]), "releases") == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert table_of(Client([[{"n": 1}], [{"n": 2}]])).all() == [{"n": 1}, {"n": 2}]


def test_an_item_that_does_not_exist_is_none() -> None:
    assert table_of(Client()).get(1) is None
    assert table_of(Client([[{"release": 1}]])).get(1) == {"release": 1}


def test_a_new_item_is_written_if_there_is_none_and_a_changed_one_if_its_body_is_the_old_one() -> None:
    client = Client()
    assert table_of(client).put({"release": 1, "body": "new"}, instead_of=None)
    assert client.written["ConditionExpression"] == "attribute_not_exists(#key)"
    assert client.written["ExpressionAttributeNames"] == {"#key": "release"}
    assert "ExpressionAttributeValues" not in client.written
    assert table_of(client).put({"release": 1, "body": "newer"}, instead_of={"release": 1, "body": "new"})
    assert client.written["ConditionExpression"] == "#body = :body"
    assert client.written["ExpressionAttributeValues"] == {":body": "new"}


def test_a_write_whose_condition_fails_returns_false() -> None:
    assert not table_of(Client(error=ConditionFailedError())).put({"release": 1, "body": "new"}, instead_of=None)


def test_an_unreachable_table_raises_the_callers_error() -> None:
    table = table_of(Client([[{"n": 1}]], error=UNREACHABLE))
    calls = (table.all, lambda: table.get(1), lambda: table.put({"release": 1, "body": ""}, instead_of=None))
    for call in calls:
        with pytest.raises(ReleaseError, match="table releases: Could not connect"):
            call()


def test_the_first_attempt_is_at_once() -> None:
    attempts = table_of(Client()).attempts()
    next(attempts)
    attempts.close()  # type: ignore[attr-defined]
