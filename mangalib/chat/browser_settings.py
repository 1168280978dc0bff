"""What of the settings the chat in a browser must know; it has no figures of its own."""

from __future__ import annotations

from typing import Any

from mangalib.domain import ROUTES
from mangalib.protocol import PLACEHOLDERS
from mangalib.settings import Settings


def figures_for_browser(settings: Settings) -> dict[str, Any]:
    """The settings by name, with what depends on the intent as a table; ready for JSON."""
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
