"""Runs notebooks headless, by papermill, and leaves the executed notebook with its result record."""

from __future__ import annotations

import ast
import json
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import papermill
from papermill.exceptions import PapermillExecutionError
from papermill.inspection import inspect_notebook
from traitlets.config import Config

from mangalib.atomic import write_atomically
from mangalib.errors import NotebookError
from mangalib.lab.record import RESULTS_VARIABLE

PROJECT = Path(__file__).resolve().parents[2]
NOTEBOOKS = PROJECT / "notebooks"
RUNS = PROJECT / "papermill_runs"


@dataclass(frozen=True)
class Run:
    """One run of a notebook: the executed notebook, its result record, and what that record holds."""

    notebook: Path
    record_file: Path
    record: dict[str, Any]

    @property
    def ok(self) -> bool:
        """Whether every cell ran."""
        return bool(self.record["status"] == "ok")


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


def run_notebook(source: Path, parameters: Mapping[str, Any], output_dir: Path = RUNS) -> Run:
    """Run one notebook; a cell that fails is in the record, with everything that ran before it kept.

    Raises ``NotebookError``, before anything starts, for a parameter that the notebook does not have or of a wrong type.
    """
    check_parameters(source, parameters)
    started = datetime.now(UTC)
    folder = output_dir / source.stem / f"{started:%Y-%m-%d}"
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / f"{started:%H%M%S}-{uuid.uuid4().hex[:6]}.ipynb"
    error: str | None = None
    with tempfile.TemporaryDirectory(prefix="mangalib-run-") as scratch:
        results_file = Path(scratch) / "results.json"
        try:
            with _environment(RESULTS_VARIABLE, str(results_file)):
                papermill.execute_notebook(
                    str(source),
                    str(output),
                    parameters=dict(parameters),
                    cwd=str(source.parent),
                    # A kernel's sockets as files of its owner: over TCP, others on this machine could listen in.
                    config=Config({"KernelManager": {"transport": "ipc"}}),
                )
        except PapermillExecutionError as failure:
            error = f"cell {failure.exec_count}: {failure.ename}: {failure.evalue}"
        except KeyboardInterrupt:
            error = "interrupted"
            raise
        except Exception as failure:  # a dead kernel or a full disk: said in the record, and to the caller
            error = f"{type(failure).__name__}: {failure}"
            raise NotebookError(f"{source.name} could not be run: {error}") from failure
        finally:
            results = json.loads(results_file.read_text(encoding="utf-8")) if results_file.exists() else {}
            record = {
                "notebook": source.stem,
                "parameters": dict(parameters),
                "started_at": started.isoformat(),
                "finished_at": datetime.now(UTC).isoformat(),
                "status": "ok" if error is None else "failed",
                "error": error,
                "results": results,
            }
            record_file = output.with_suffix(".json")
            write_atomically(record_file, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return Run(output, record_file, record)


def check_parameters(source: Path, parameters: Mapping[str, Any]) -> None:
    """Compare with the notebook's own parameters cell; raises ``NotebookError`` listing what there is."""
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


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


def write_html(notebook: Path) -> Path:
    """A page of an executed notebook, beside it, whole in one file: pictures can be looked at without a network."""
    import nbformat
    from nbconvert import HTMLExporter

    contents = nbformat.read(notebook, as_version=4)
    for cell in contents.cells:
        for output in cell.get("outputs", []):
            figure = output.get("data", {}).get("application/vnd.plotly.v1+json")
            if figure is not None:
                output["data"] = {"text/html": _figure_html(figure)}
    # Nothing is fetched by a reader's browser: no scripts from elsewhere.
    exporter = HTMLExporter(require_js_url="", mathjax_url="", jquery_url="", widget_renderer_url="")
    body, _ = exporter.from_notebook_node(contents)
    page = notebook.with_suffix(".html")
    page.write_text(body.replace("</head>", f"<script>{_plotly_js()}</script></head>", 1), encoding="utf-8")
    return page


def _figure_html(figure: dict[str, Any]) -> str:
    import plotly.io

    return str(plotly.io.to_html(figure, include_plotlyjs=False, full_html=False, validate=False))


def _plotly_js() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())
