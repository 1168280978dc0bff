"""Intents and their routes."""

from __future__ import annotations

import pytest

from mangalib.domain import ROUTES, Intent, named_intent
from mangalib.errors import BadRequestError
from mangalib.settings import BudgetSettings, ModelSettings


def test_every_intent_has_a_route() -> None:
    assert set(ROUTES) == set(Intent)


def test_an_uncertain_question_gets_the_large_model_and_all_context() -> None:
    route = ROUTES[Intent.DEFAULT]
    assert route.large_model
    assert route.retrieval
    assert route.personal
    assert not route.shareable


@pytest.mark.parametrize("intent", list(Intent))
def test_model_and_budget_follow_from_the_route(intent: Intent) -> None:
    route, models, budgets = ROUTES[intent], ModelSettings(), BudgetSettings()
    large = route.large_model
    assert route.model_id(models) == (models.sonnet_model_id if large else models.haiku_model_id)
    budget_ms = budgets.retrieval_first_token_budget_ms if large else budgets.simple_first_token_budget_ms
    assert route.first_token_budget_ms(budgets) == budget_ms


def test_an_unknown_intent_is_a_bad_request_that_names_the_known_ones() -> None:
    assert named_intent("faq") is Intent.FAQ
    with pytest.raises(BadRequestError, match="intent: 'weather'; expected one of recommendation, "):
        named_intent("weather")
