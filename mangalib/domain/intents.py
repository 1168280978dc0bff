"""Intents, the route that each of them takes, and the status texts that customers read meanwhile."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from mangalib.errors import BadRequestError
from mangalib.settings import BudgetSettings, ModelSettings


class Intent(StrEnum):
    """What a customer wants. ``DEFAULT`` stands for an uncertain classification."""

    RECOMMENDATION = "recommendation"
    PRODUCT_SEARCH = "product_search"
    ORDER_STATUS = "order_status"
    COMPARISON = "comparison"
    COMPLAINT = "complaint"
    FAQ = "faq"
    GREETING = "greeting"
    OTHER = "other"
    DEFAULT = "default"


class Route(msgspec.Struct, frozen=True):
    """How an intent is answered: small or large model, with or without retrieval, with or without the customer's own data."""

    large_model: bool
    retrieval: bool
    personal: bool
    status_text: str

    @property
    def shareable(self) -> bool:
        """Whether the answer is the same for every customer, so that a shared cache may hold it."""
        return not self.personal

    @property
    def knows_customer(self) -> bool:
        """Whether the customer's record is read, for personal data or for the conversation history."""
        return self.personal or self.retrieval

    def first_token_budget_ms(self, settings: BudgetSettings) -> float:
        """The first-token budget of the route's model."""
        return settings.retrieval_first_token_budget_ms if self.large_model else settings.simple_first_token_budget_ms

    def model_id(self, settings: ModelSettings) -> str:
        """The id of the model that answers on this route."""
        return settings.sonnet_model_id if self.large_model else settings.haiku_model_id


# After the intent's own status text, where titles are looked up: by the state of the status frame.
STATUS_TEXTS = {
    "checking": "Let me check...",
    "retrieving": "Looking up manga for you...",
    "preparing": "Preparing your answer...",
}

ROUTES: dict[Intent, Route] = {
    Intent.RECOMMENDATION: Route(True, True, True, "Looking up manga recommendations for you..."),
    Intent.PRODUCT_SEARCH: Route(True, True, False, "Searching our manga catalog..."),
    Intent.ORDER_STATUS: Route(False, False, True, "Checking your order status..."),
    Intent.COMPARISON: Route(True, True, False, "Analyzing both titles for you..."),
    Intent.COMPLAINT: Route(True, False, True, "I understand your concern. Looking into this..."),
    Intent.FAQ: Route(False, False, False, "Let me find that answer..."),
    Intent.GREETING: Route(False, False, False, ""),
    Intent.OTHER: Route(False, False, False, "Working on your request..."),
    # An uncertain question gets the large model and all the context there is.
    Intent.DEFAULT: Route(True, True, True, "Working on your request..."),
}


def named_intent(name: str) -> Intent:
    """The intent that a client named; raises ``BadRequestError`` for an unknown one."""
    try:
        return Intent(name)
    except ValueError:
        raise BadRequestError(f"intent: {name[:40]!r}; expected one of {', '.join(Intent)}") from None
