"""Every figure of the product, once: typed, with its unit in its name, overridable by ``MANGA_<NAME>``.

The figures are in small groups, one for each kind of reader; a function takes the group that it reads. :class:`Settings`
inherits from all groups, so that it can be passed wherever one group is wanted.

>>> PoolSettings().pool_size
5
>>> Settings(pool_size=3).pool_size
3
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from mangalib.errors import SettingsError
from mangalib.settings.addresses import AddressSettings, AwsSettings, DataSettings, ShopSettings, TableSettings
from mangalib.settings.benchmark import (
    AblationSettings,
    DetectorSettings,
    IncidentSettings,
    PagerSettings,
    SavingSettings,
    StoreSettings,
    WorkloadSettings,
)
from mangalib.settings.budgets import BudgetSettings
from mangalib.settings.group import working_folder
from mangalib.settings.jobs import AccountSettings, JobSettings, LeaseSettings, RunSettings, ScheduleSettings
from mangalib.settings.lab import CostSettings, LimitSettings, StageSettings
from mangalib.settings.local import LocalBedrockSettings, LocalGatewaySettings, LocalSettings, SeedSettings
from mangalib.settings.models import ModelSettings, WarmupSettings
from mangalib.settings.precompute import (
    CandidateSettings,
    FollowUpSettings,
    HitRateSettings,
    PrecomputeSettings,
    PredictionSettings,
    SingleFlightSettings,
    TrainingSettings,
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
    "AblationSettings",
    "AccountSettings",
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
    "CostSettings",
    "DataSettings",
    "DetectorSettings",
    "FollowUpSettings",
    "FrameSettings",
    "GatewaySettings",
    "HedgeSettings",
    "HitRateSettings",
    "IncidentSettings",
    "JobSettings",
    "LeaseSettings",
    "LimitSettings",
    "LocalBedrockSettings",
    "LocalGatewaySettings",
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
    "SeedSettings",
    "SessionSettings",
    "Settings",
    "ShopSettings",
    "SingleFlightSettings",
    "StageSettings",
    "StoreSettings",
    "TableSettings",
    "TimeoutSettings",
    "TrainingSettings",
    "TransportSettings",
    "WarmingSettings",
    "WarmupSettings",
    "WorkloadSettings",
    "changed_environment",
    "environment",
    "load_settings",
    "working_folder",
]


class Settings(
    LocalBedrockSettings,
    LocalGatewaySettings,
    SeedSettings,
    LimitSettings,
    TransportSettings,
    HedgeSettings,
    ChatSettings,
    CostSettings,
    StageSettings,
    SearchSettings,
    OrchestratorSettings,
    RefreshSettings,
    QueryLogSettings,
    ClassifierSettings,
    HitRateSettings,
    TrainingSettings,
    PrecomputeSettings,
    WorkloadSettings,
    DetectorSettings,
    SavingSettings,
    IncidentSettings,
    AccountSettings,
):
    """All groups in one. :func:`load_settings` reads them with a readable error on a wrong value."""


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
    shown = repr(str(value) if isinstance(value, Path) else value)
    return f"MANGA_{name.upper()}={'***' if secret else shown}: {expected}"


def environment(values: Mapping[str, object], **variables: str) -> dict[str, str]:
    """The environment for a child process: this process's, the settings in ``values`` by name, and other ``variables``.

    Raises ``SettingsError`` for a name that is not a setting.
    """
    unknown = values.keys() - Settings.model_fields.keys()
    if unknown:
        raise SettingsError(f"unknown settings: {', '.join(sorted(unknown))}; expected fields of Settings")
    return {**os.environ, **{f"MANGA_{name.upper()}": str(value) for name, value in values.items()}, **variables}


@contextmanager
def changed_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables of this process for the block, and restore them afterwards."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
