"""What the laboratory's tables set side by side: budgets with time-outs, prices with token budgets, quotas with pools."""

from __future__ import annotations

from mangalib.settings.budgets import BudgetSettings
from mangalib.settings.models import WarmupSettings
from mangalib.settings.precompute import FollowUpSettings
from mangalib.settings.serving import AnswerSettings
from mangalib.settings.session import GatewaySettings
from mangalib.settings.transport import PoolSettings


class StageSettings(AnswerSettings, BudgetSettings):
    """The budget of each stage of one answer."""


class CostSettings(FollowUpSettings, WarmupSettings):
    """Prices, and what the product may spend beside its answers."""


class LimitSettings(GatewaySettings, PoolSettings):
    """How much may be open at once."""
