"""The base of all groups of settings, the number types they share, and the folders of their defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]

_PACKAGE = Path(__file__).resolve().parents[1]


class Group(BaseSettings):
    """The settings that one kind of reader needs; immutable. Values come from ``MANGA_<NAME>``, then from a ``.env`` file."""

    model_config = SettingsConfigDict(env_prefix="MANGA_", env_file=".env", extra="ignore", frozen=True)


def _is_checkout(folder: Path) -> bool:
    return (folder / "pyproject.toml").is_file() and (folder / "data").is_dir()


def project_folder(package: Path = _PACKAGE) -> Path:
    """The folder that holds ``data/`` and ``notebooks/``: the checkout, or ``mangalib/share/`` of an installed package."""
    return package.parent if _is_checkout(package.parent) else package / "share"


def output_folder(package: Path = _PACKAGE) -> Path:
    """The folder that runs and benchmark results are written to: in the checkout, else in the current directory."""
    return (package.parent if _is_checkout(package.parent) else Path.cwd()) / "papermill_runs"


def trained_folder(package: Path = _PACKAGE) -> Path:
    """The folder that trained models are written to: the checkout's ``data/``, else the output folder."""
    return package.parent / "data" if _is_checkout(package.parent) else output_folder(package)


def working_folder(notebook: Path, package: Path = _PACKAGE) -> Path:
    """Where a notebook runs: in its own folder, but one of an installed package in the current directory, for its output."""
    return Path.cwd() if notebook.is_relative_to(package / "share") else notebook.parent
