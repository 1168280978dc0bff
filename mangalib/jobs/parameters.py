"""A job: a notebook, and parameters that match its own parameters cell."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from papermill.inspection import inspect_notebook

from mangalib.errors import NotebookError
from mangalib.settings import ScheduleSettings

_NAME = re.compile(r"[\w.-]{1,100}")


@dataclass(frozen=True)
class Job:
    """A notebook to run: with these parameters, for at most ``timeout_s``. ``name`` is what its lease is called."""

    notebook: Path
    parameters: Mapping[str, Any]
    name: str
    timeout_s: float
    html: bool = False


def job_of(
    notebook: Path, parameters: Mapping[str, Any], *, timeout_s: float, name: str = "", html: bool = False
) -> Job:
    """A job with checked parameters. Without a name it is named after its notebook and a digest of its parameters.

    Raises ``NotebookError`` for a parameter that the notebook does not have, a value of the wrong type, and a name that
    is not valid for a file.
    """
    check_parameters(notebook, parameters)
    if not name:
        digest = hashlib.sha256(json.dumps(dict(parameters), sort_keys=True).encode()).hexdigest()[:8]
        name = f"{notebook.stem}-{digest}"
    if not _NAME.fullmatch(name):
        raise NotebookError(f"job {name!r}: expected up to 100 alphanumeric characters, dots, dashes and underscores")
    return Job(notebook, parameters, name, timeout_s, html)


def find_notebooks(name: str, settings: ScheduleSettings) -> list[Path]:
    """The notebooks that ``name`` stands for: a path, a name in ``MANGA_NOTEBOOKS_DIR`` with or without ``.ipynb``, or ``all``.

    Raises ``NotebookError`` listing the notebooks there are.
    """
    folder = settings.notebooks_dir
    known = sorted(folder.glob("[0-9]*.ipynb"))
    if name == "all" and known:
        return known
    for candidate in (Path(name), folder / name, folder / f"{name}.ipynb"):
        if candidate.is_file() and candidate.suffix == ".ipynb":
            return [candidate.resolve()]
    stems = ", ".join(path.stem for path in known)
    raise NotebookError(f"no notebook {name!r}; MANGA_NOTEBOOKS_DIR={str(folder)!r} has: {stems or 'no notebooks'}")


def check_parameters(source: Path, parameters: Mapping[str, Any]) -> None:
    """Compare parameters with the notebook's own; raises ``NotebookError`` listing those it has."""
    if not source.is_file():
        raise NotebookError(f"{source}: there is no such notebook")
    known = inspect_notebook(str(source))
    defaults = {name: _literal(info["default"]) for name, info in known.items()}
    listing = ", ".join(f"{name}={value!r}" for name, value in defaults.items()) or "none"
    for name, value in parameters.items():
        if name not in defaults:
            raise NotebookError(f"{source.stem} has no parameter {name!r}; it has: {listing}")
        default = defaults[name]
        fits = type(value) is type(default) or (isinstance(default, float) and type(value) is int)
        if default is not None and not fits:
            expected = type(default).__name__
            raise NotebookError(f"parameter {name}={value!r} of {source.stem}: expected {expected}, as in {listing}")


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None
