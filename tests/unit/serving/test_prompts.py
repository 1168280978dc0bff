"""Prompts: fallback from version to intent to default to built-in; a failed refresh keeps the last good set."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from mangalib.domain import Intent
from mangalib.serving.prompts import BUILT_IN_PROMPT, PromptStore


class Table:
    """A DynamoDB client with one table of pages of two items; counts the pages that are read."""

    def __init__(self, items: list[dict[str, object]]) -> None:
        self.items, self.reads, self.broken = items, 0, False

    def get_paginator(self, operation: str) -> Table:
        assert operation == "scan"
        return self

    def paginate(self, TableName: str) -> Any:  # noqa: N803 - boto3's name
        for start in range(0, len(self.items), 2):
            self.reads += 1
            if self.broken:
                raise EndpointConnectionError(endpoint_url="http://dynamodb")
            yield {"Items": self.items[start : start + 2]}


def prompt(intent: str, version: int, active: bool = True) -> dict[str, object]:
    return {"intent": intent, "version": version, "prompt_text": f"{intent} {version}", "active": active}


async def test_prompts_fall_back_from_version_to_intent_to_default_to_built_in() -> None:
    table = Table([prompt("faq", 1), prompt("faq", 2), prompt("faq", 3, active=False), prompt("default", 1)])
    prompts = PromptStore(table, "prompts")
    assert prompts.lookup(Intent.FAQ) == BUILT_IN_PROMPT
    await prompts.refresh()
    assert table.reads == 2, "all pages, each once"
    assert prompts.lookup(Intent.FAQ, 1) == "faq 1"
    assert prompts.lookup(Intent.FAQ) == "faq 2"
    assert prompts.lookup(Intent.FAQ, 3) == "faq 2", "not active"
    assert prompts.lookup(Intent.GREETING) == "default 1"
    assert table.reads == 2, "a lookup does no I/O"


@pytest.mark.parametrize(
    "item", [{"intent": "faq"}, {**prompt("faq", 1), "version": "new"}, {**prompt("faq", 1), "version": None}]
)
async def test_a_malformed_item_changes_nothing(item: dict[str, object]) -> None:
    table = Table([prompt("faq", 1)])
    prompts = PromptStore(table, "prompts")
    await prompts.refresh()
    table.items = [prompt("greeting", 1), item]
    with pytest.raises((KeyError, ValueError, TypeError)):
        await prompts.refresh()
    assert prompts.lookup(Intent.FAQ) == "faq 1"
    assert prompts.lookup(Intent.GREETING) == BUILT_IN_PROMPT


async def test_reading_for_one_lookup_falls_back_to_the_last_good_set(caplog: pytest.LogCaptureFixture) -> None:
    table = Table([prompt("faq", 1)])
    prompts = PromptStore(table, "prompts")
    assert await prompts.fetch(Intent.FAQ) == "faq 1"
    table.items = [prompt("faq", 2)]
    assert await prompts.fetch(Intent.FAQ) == "faq 2"
    table.broken = True
    assert await prompts.fetch(Intent.FAQ) == "faq 2"
    assert "reading prompts failed: EndpointConnectionError" in caplog.text
