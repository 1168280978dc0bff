"""Routing: what a question can be about, and which way it takes because of that."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from mangalib.errors import BadRequestError
from mangalib.settings import BudgetSettings, ModelSettings


class Intent(StrEnum):
    """What a customer wants. ``DEFAULT`` is no intent of its own: it is the way taken when the classifier is unsure."""

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
    """The way of one intent: Haiku or Sonnet, with retrieval or without, with the customer's own data or without."""

    large_model: bool
    retrieval: bool
    personal: bool
    status_text: str

    @property
    def shareable(self) -> bool:
        """The answer is the same for every customer, so a shared cache may hold it."""
        return not self.personal

    @property
    def knows_customer(self) -> bool:
        """The customer's record is looked up: for its own sake, or for what was said before."""
        return self.personal or self.retrieval

    def first_token_budget_ms(self, settings: BudgetSettings) -> float:
        """When the first token should be there: the small model's budget, or the large one's."""
        return settings.retrieval_first_token_budget_ms if self.large_model else settings.simple_first_token_budget_ms

    def model_id(self, settings: ModelSettings) -> str:
        """The model that answers on this route."""
        return settings.sonnet_model_id if self.large_model else settings.haiku_model_id


ROUTES: dict[Intent, Route] = {
    Intent.RECOMMENDATION: Route(True, True, True, "Looking up manga recommendations for you..."),
    Intent.PRODUCT_SEARCH: Route(True, True, False, "Searching our manga catalog..."),
    Intent.ORDER_STATUS: Route(False, False, True, "Checking your order status..."),
    Intent.COMPARISON: Route(True, True, False, "Analyzing both titles for you..."),
    Intent.COMPLAINT: Route(True, False, True, "I understand your concern. Looking into this..."),
    Intent.FAQ: Route(False, False, False, "Let me find that answer..."),
    Intent.GREETING: Route(False, False, False, ""),
    Intent.OTHER: Route(False, False, False, "Working on your request..."),
    # When unsure, the careful way: the large model, with everything that may help it.
    Intent.DEFAULT: Route(True, True, True, "Working on your request..."),
}


def named_intent(name: str) -> Intent:
    """The intent that a client asked for by name; raises ``BadRequestError`` for one that does not exist."""
    try:
        return Intent(name)
    except ValueError:
        raise BadRequestError(f"intent: {name[:40]!r}; expected one of {', '.join(Intent)}") from None
