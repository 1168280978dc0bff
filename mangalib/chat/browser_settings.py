"""The settings that the chat element needs in the browser."""

from __future__ import annotations

from typing import Any

from mangalib.domain import ROUTES
from mangalib.protocol import PLACEHOLDERS
from mangalib.settings import ChatSettings


def browser_settings(settings: ChatSettings) -> dict[str, Any]:
    """The element's ``figures``, ready for JSON: settings by name, and first-token budgets and placeholders by intent."""
    names = (
        "connect_timeout_s",
        "stream_timeout_s",
        "send_timeout_s",
        "reconnect_attempts",
        "reconnect_backoff_ms",
        "reconnect_backoff_max_ms",
        "resume_after_silence_s",
        "max_query_chars",
        "shop_url",
        "exchanges_max",
        "timeline_rows_max",
    )
    return {
        **{name: getattr(settings, name) for name in names},
        "first_token_budget_ms": {intent: route.first_token_budget_ms(settings) for intent, route in ROUTES.items()},
        "placeholders": PLACEHOLDERS,
    }
