"""System prompts, loaded before they are needed: a lookup is a look into memory and does no I/O."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from mangalib.aws import ClaudeRequest, Turn
from mangalib.domain import Intent, Manga, Route
from mangalib.serving.retrieval import Customer

log = logging.getLogger(__name__)

BUILT_IN_PROMPT = (
    "You are MangaAssist, the assistant of a Japanese manga shop. Answer briefly and only from what you are given. "
    "If you do not know, say so. Answer in the customer's language."
)


class PromptStore:
    """All active prompts of a DynamoDB table (``intent``, ``version``, ``prompt_text``, ``active``).

    ``dynamodb`` is a boto3 client that takes plain Python values, used in worker threads. :meth:`refresh` replaces the
    whole set at once; when it fails, the last good set stays and the failure is logged.
    """

    def __init__(self, dynamodb: Any, table: str) -> None:
        self._dynamodb = dynamodb
        self._table = table
        self._prompts: Mapping[tuple[str, int], str] = {}
        self._newest: Mapping[str, int] = {}

    def lookup(self, intent: Intent, version: int | None = None) -> str:
        """The prompt of that version, else the intent's newest active one, else the default's, else the built-in one."""
        for name, wanted in ((intent, version), (intent, None), (Intent.DEFAULT, None)):
            number = self._newest.get(name) if wanted is None else wanted
            text = self._prompts.get((name, number)) if number is not None else None
            if text is not None:
                return text
        return BUILT_IN_PROMPT

    async def fetch(self, intent: Intent, version: int | None = None) -> str:
        """As :meth:`lookup`, but from a table that is read for this one lookup: only to measure what that costs."""
        await self.refresh()
        return self.lookup(intent, version)

    async def refresh(self) -> bool:
        """Load every page of the table; returns whether it worked."""
        try:
            items = await asyncio.to_thread(self._scan)
            prompts = {(str(i["intent"]), int(i["version"])): str(i["prompt_text"]) for i in items if i["active"]}
        except (ClientError, BotoCoreError, KeyError, ValueError) as error:
            log.warning("prompts could not be loaded, the last good set stays in use: %s", error)
            return False
        newest: dict[str, int] = {}
        for intent, version in sorted(prompts):
            newest[intent] = version
        self._prompts, self._newest = prompts, newest
        return True

    async def keep_fresh(self, every_s: float) -> None:
        """Refresh in the background; runs until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            await self.refresh()

    def _scan(self) -> list[dict[str, Any]]:
        page = self._dynamodb.scan(TableName=self._table)
        items: list[dict[str, Any]] = list(page["Items"])
        # A page holds at most 1 MB; the table is read when there is no next key.
        while "LastEvaluatedKey" in page:
            page = self._dynamodb.scan(TableName=self._table, ExclusiveStartKey=page["LastEvaluatedKey"])
            items += page["Items"]
        return items


def assemble(
    prompt: str, question: str, *, route: Route, titles: list[Manga], customer: Customer, max_tokens: int
) -> ClaudeRequest:
    """The request to the model: the intent's prompt, what was looked up, what was said before, and the question.

    The customer's name, tastes and orders are given on personal routes only.
    """
    parts = [prompt]
    if titles:
        parts.append("Titles from our catalogue:\n" + "\n".join(_title_line(title) for title in titles))
    if route.personal and customer.name:
        parts.append(f"The customer: {customer.name}; likes {', '.join(customer.favourite_genres)}.")
    if route.personal and customer.orders:
        parts.append("The customer's orders:\n" + "\n".join(_order_line(order) for order in customer.orders))
    turns = [*customer.history, Turn("user", question)]
    return ClaudeRequest(max_tokens=max_tokens, messages=turns, system="\n\n".join(parts))


def _title_line(title: Manga) -> str:
    return (
        f"- {title.title} ({title.title_ja}) by {title.author}, {title.first_year}, {title.volumes} volumes, "
        f"{title.status}, {title.genres}; {title.price_usd:.2f} USD a volume, {title.stock} in stock"
    )


def _order_line(order: dict[str, Any]) -> str:
    return "- " + ", ".join(f"{name}: {value}" for name, value in sorted(order.items()) if name != "customer")
