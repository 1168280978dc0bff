"""Latency budgets: the overall targets, one query phase by phase, and progressive rendering."""

from __future__ import annotations

from mangalib.settings.group import Group, Positive


class BudgetSettings(Group):
    """Targets in ms since the customer sent the query, for comparison in plots and tables; none of them is a time-out."""

    simple_first_token_budget_ms: Positive = 400
    retrieval_first_token_budget_ms: Positive = 1100
    whole_answer_budget_ms: Positive = 3000
    intent_budget_ms: Positive = 50
    model_choice_budget_ms: Positive = 5
    knn_budget_ms: Positive = 620
    profile_budget_ms: Positive = 180
    prompt_budget_ms: Positive = 20
    haiku_first_token_budget_ms: Positive = 275
    sonnet_first_token_budget_ms: Positive = 350
    frame_budget_ms: Positive = 5
    answer_until_ms: Positive = 2400
    instant_until_ms: Positive = 100
    context_until_ms: Positive = 700
    description_title_ms: Positive = 900
    description_text_ms: Positive = 2000
    description_card_ms: Positive = 2300
    description_purchase_ms: Positive = 2400
    list_introduction_ms: Positive = 1000
    list_first_title_ms: Positive = 1400
    list_second_title_ms: Positive = 1800
    list_third_title_ms: Positive = 2200
    list_cards_ms: Positive = 2500
