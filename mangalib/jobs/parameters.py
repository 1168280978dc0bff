"""What is to be run: a notebook with parameters that fit its own parameters cell."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from papermill.inspection import inspect_notebook

from mangalib.errors import NotebookError

PROJECT = Path(__file__).resolve().parents[2]
NOTEBOOKS = PROJECT / "notebooks"


@dataclass(frozen=True)
class Job:
    """A notebook, its parameters, a name that tells jobs apart, and how long it may take. See :func:`job_of`."""

    notebook: Path
    parameters: Mapping[str, Any]
    name: str
    timeout_s: float
    html: bool = False


def job_of(
    notebook: Path, parameters: Mapping[str, Any], *, timeout_s: float, name: str = "", html: bool = False
) -> Job:
    """A job whose parameters have been checked; without a name it is called by its notebook and parameters.

    Raises ``NotebookError`` for a parameter that the notebook does not have or of a wrong type.
    """
    check_parameters(notebook, parameters)
    if not name:
        digest = hashlib.sha256(json.dumps(dict(parameters), sort_keys=True).encode()).hexdigest()[:8]
        name = f"{notebook.stem}-{digest}"
    return Job(notebook, parameters, name, timeout_s, html)


def find_notebooks(name: str) -> list[Path]:
    """The notebooks that ``name`` means: a path, a name with or without ``.ipynb``, or ``all``.

    Raises ``NotebookError`` listing what there is.
    """
    known = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
    if name == "all":
        return known
    for candidate in (Path(name), NOTEBOOKS / name, NOTEBOOKS / f"{name}.ipynb"):
        if candidate.is_file() and candidate.suffix == ".ipynb":
            return [candidate.resolve()]
    raise NotebookError(f"no notebook {name!r}; there are: {', '.join(path.stem for path in known) or 'none'}")


def check_parameters(source: Path, parameters: Mapping[str, Any]) -> None:
    """Compare with the notebook's own parameters cell; raises ``NotebookError`` listing what there is."""
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
