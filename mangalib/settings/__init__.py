"""Every figure of the product, once: typed, with its unit in its name, overridable by ``MANGA_<NAME>``.

The figures stand in small groups, one for each kind of reader, and a function asks for the group that it reads. All groups
together are :class:`Settings`, which can be handed to any of them.

>>> PoolSettings().pool_size
5
>>> Settings(pool_size=3).pool_size
3
"""

from __future__ import annotations

import os

from pydantic import ValidationError

from mangalib.errors import SettingsError
from mangalib.settings.addresses import AddressSettings, AwsSettings, DataSettings, ShopSettings, TableSettings
from mangalib.settings.benchmark import DetectorSettings, PagerSettings, SavingSettings, WorkloadSettings
from mangalib.settings.budgets import BudgetSettings
from mangalib.settings.jobs import JobSettings, LeaseSettings, RunSettings, ScheduleSettings
from mangalib.settings.local import LocalSettings
from mangalib.settings.models import ModelSettings, WarmupSettings
from mangalib.settings.precompute import (
    CandidateSettings,
    FollowUpSettings,
    HitRateSettings,
    PrecomputeSettings,
    PredictionSettings,
    SingleFlightSettings,
    WarmingSettings,
)
from mangalib.settings.serving import (
    AnswerSettings,
    CapacitySettings,
    OrchestratorSettings,
    QueryLogSettings,
    RefreshSettings,
    ReplaySettings,
    SearchSettings,
)
from mangalib.settings.session import (
    AuthSettings,
    ChatSettings,
    ClientSettings,
    FrameSettings,
    GatewaySettings,
    SessionSettings,
)
from mangalib.settings.transport import (
    HedgeSettings,
    PoolSettings,
    ResilienceSettings,
    TimeoutSettings,
    TransportSettings,
)
from mangalib.settings.understanding import CacheSettings, ClassifierSettings

__all__ = [
    "AddressSettings",
    "AnswerSettings",
    "AuthSettings",
    "AwsSettings",
    "BudgetSettings",
    "CacheSettings",
    "CandidateSettings",
    "CapacitySettings",
    "ChatSettings",
    "ClassifierSettings",
    "ClientSettings",
    "DataSettings",
    "DetectorSettings",
    "FollowUpSettings",
    "FrameSettings",
    "GatewaySettings",
    "HedgeSettings",
    "HitRateSettings",
    "JobSettings",
    "LeaseSettings",
    "LocalSettings",
    "ModelSettings",
    "OrchestratorSettings",
    "PagerSettings",
    "PoolSettings",
    "PrecomputeSettings",
    "PredictionSettings",
    "QueryLogSettings",
    "RefreshSettings",
    "ReplaySettings",
    "ResilienceSettings",
    "RunSettings",
    "SavingSettings",
    "ScheduleSettings",
    "SearchSettings",
    "SessionSettings",
    "Settings",
    "ShopSettings",
    "SingleFlightSettings",
    "TableSettings",
    "TimeoutSettings",
    "TransportSettings",
    "WarmingSettings",
    "WarmupSettings",
    "WorkloadSettings",
    "environment",
    "load_settings",
]


class Settings(
    TransportSettings,
    HedgeSettings,
    ChatSettings,
    WarmupSettings,
    AnswerSettings,
    SearchSettings,
    OrchestratorSettings,
    RefreshSettings,
    QueryLogSettings,
    ClassifierSettings,
    HitRateSettings,
    PrecomputeSettings,
    WorkloadSettings,
    DetectorSettings,
    SavingSettings,
    JobSettings,
    LocalSettings,
):
    """All groups in one. See :func:`load_settings` for the readable error on a wrong value."""


def load_settings(**overrides: object) -> Settings:
    """Read the settings.

    Raises
    ------
    SettingsError
        Names each wrong variable, its value (never that of a secret) and what is allowed.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        lines = [_describe(str(e["loc"][0]), e["input"], e["msg"]) for e in error.errors()]
        raise SettingsError("; ".join(lines)) from None


def _describe(name: str, value: object, expected: str) -> str:
    secret = name in {"jwt_secret", "token", "pagerduty_routing_key"}
    return f"MANGA_{name.upper()}={'***' if secret else repr(value)}: {expected}"


def environment(values: dict[str, object]) -> dict[str, str]:
    """The environment for a child process in which ``values`` (setting name to value) hold."""
    unknown = values.keys() - Settings.model_fields.keys()
    if unknown:
        raise SettingsError(f"no such settings: {', '.join(sorted(unknown))}")
    return {**os.environ, **{f"MANGA_{name.upper()}": str(value) for name, value in values.items()}}
