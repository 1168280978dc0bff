"""An executed notebook as a page in one file, pictures included: it can be read without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import plotly.io
from nbconvert import HTMLExporter
from plotly.offline import get_plotlyjs

_TEMPLATES = Path(__file__).with_name("templates")


def report_html(notebook: str) -> str:
    """The page of a notebook; ``notebook`` is its JSON."""
    contents = nbformat.reads(notebook, as_version=4)
    for cell in contents.cells:
        for output in cell.get("outputs", []):
            figure = output.get("data", {}).get("application/vnd.plotly.v1+json")
            if figure is not None:
                output["data"] = {"text/html": _figure(figure)}
    # No URLs of scripts: the reader's browser fetches nothing.
    exporter = HTMLExporter(
        extra_template_basedirs=[str(_TEMPLATES)],
        template_name="report",
        require_js_url="",
        mathjax_url="",
        jquery_url="",
        widget_renderer_url="",
    )
    body, _ = exporter.from_notebook_node(contents, resources={"plotly_js": get_plotlyjs()})
    return str(body)


def _figure(figure: dict[str, Any]) -> str:
    return str(plotly.io.to_html(figure, include_plotlyjs=False, full_html=False, validate=False))
