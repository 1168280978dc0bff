"""A group of settings: typed, frozen, each field overridable by ``MANGA_<NAME>``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]

PROJECT = Path(__file__).resolve().parents[2]


class Group(BaseSettings):
    """What one kind of reader needs; immutable once read. Values come from environment variables, then from a ``.env`` file."""

    model_config = SettingsConfigDict(env_prefix="MANGA_", env_file=".env", extra="ignore", frozen=True)
