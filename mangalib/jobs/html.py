"""An executed notebook as a page, whole in one file: pictures can be looked at without a network."""

from __future__ import annotations

from typing import Any

import nbformat
import plotly.io
from nbconvert import HTMLExporter
from plotly.offline import get_plotlyjs


def report_page(notebook: str) -> str:
    """The page of a notebook's JSON."""
    contents = nbformat.reads(notebook, as_version=4)
    for cell in contents.cells:
        for output in cell.get("outputs", []):
            figure = output.get("data", {}).get("application/vnd.plotly.v1+json")
            if figure is not None:
                output["data"] = {"text/html": _figure(figure)}
    # Nothing is fetched by a reader's browser: no scripts from elsewhere.
    exporter = HTMLExporter(require_js_url="", mathjax_url="", jquery_url="", widget_renderer_url="")
    body, _ = exporter.from_notebook_node(contents)
    return str(body).replace("</head>", f"<script>{get_plotlyjs()}</script></head>", 1)


def _figure(figure: dict[str, Any]) -> str:
    return str(plotly.io.to_html(figure, include_plotlyjs=False, full_html=False, validate=False))
