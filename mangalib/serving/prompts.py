"""System prompts: loaded into memory in advance, so that a lookup does no I/O; and the model's request built from them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from mangalib.aws import ClaudeRequest, Turn, scan
from mangalib.domain import Intent, Manga, Route
from mangalib.resilience import try_refresh
from mangalib.serving.retrieval import Customer

BUILT_IN_PROMPT = (
    "You are MangaAssist, the assistant of a Japanese manga shop. Answer briefly and only from what you are given. "
    "If you do not know, say so. Answer in the customer's language."
)


class PromptStore:
    """All active prompts of a DynamoDB table (``intent``, ``version``, ``prompt_text``, ``active``).

    ``dynamodb`` is a client as of :func:`mangalib.aws.dynamodb_client`, used in worker threads.
    """

    def __init__(self, dynamodb: Any, table: str) -> None:
        self._dynamodb = dynamodb
        self._table = table
        self._prompts: Mapping[tuple[str, int], str] = {}
        self._newest: Mapping[str, int] = {}

    def lookup(self, intent: Intent, version: int | None = None) -> str:
        """The prompt of that version, else the intent's newest active one, else the newest default one, else the built-in one."""
        for name, wanted in ((intent, version), (intent, None), (Intent.DEFAULT, None)):
            number = self._newest.get(name) if wanted is None else wanted
            text = self._prompts.get((name, number)) if number is not None else None
            if text is not None:
                return text
        return BUILT_IN_PROMPT

    async def fetch(self, intent: Intent, version: int | None = None) -> str:
        """As :meth:`lookup`, after reading the table for this one lookup: to measure what preloading saves."""
        await try_refresh("reading prompts", self.refresh)
        return self.lookup(intent, version)

    async def refresh(self) -> None:
        """Replace all prompts by the table's; when it cannot be read or an item is malformed, raises and changes nothing."""
        items = await asyncio.to_thread(scan, self._dynamodb, self._table)
        prompts = {(str(i["intent"]), int(i["version"])): str(i["prompt_text"]) for i in items if i["active"]}
        self._newest = {intent: version for intent, version in sorted(prompts)}
        self._prompts = prompts


def assemble(
    prompt: str, question: str, *, route: Route, titles: list[Manga], customer: Customer, max_tokens: int
) -> ClaudeRequest:
    """The request to the model: prompt, retrieved titles, conversation history and question.

    The customer's name, favourite genres and orders are included on personal routes only.
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
