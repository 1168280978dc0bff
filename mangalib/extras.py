"""Extras: what a package needs beyond the dependencies of what serves, named where it is missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import lazy_loader

from mangalib.errors import SettingsError

Extra = Literal["lab", "local", "cluster"]


def attach_stub(
    package: str, file: str, *, extra: Extra
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package by its ``__init__.pyi``, as by ``lazy_loader.attach_stub``.

    A name whose module needs what is not installed raises ``SettingsError``, which names the ``extra`` to install.
    """
    load, list_names, names = lazy_loader.attach_stub(package, file)

    def load_name(name: str) -> Any:
        try:
            return load(name)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.startswith("mangalib"):
                raise
            raise missing_extra(package, error.name, extra) from error

    return load_name, list_names, names


def missing_extra(what: str, module: str, extra: Extra) -> SettingsError:
    """The error for ``what`` needs a ``module`` that is not installed."""
    return SettingsError(f"{what} needs {module}, which is not installed: install mangalib[{extra}]")
