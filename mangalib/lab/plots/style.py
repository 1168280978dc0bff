"""What all plots share: colours that colour-blind readers can tell apart (Okabe & Ito, 2008), budget lines, and the layout."""

from __future__ import annotations

import plotly.graph_objects as go
import plotly.io

BLUE, ORANGE, GREEN, VERMILION, GREY, YELLOW = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#999999", "#F0E442"

# Notebooks stay small: a figure carries its data only, and the front end draws it.
plotly.io.renderers.default = "plotly_mimetype"
plotly.io.templates.default = "none"


def add_budget_line(
    figure: go.Figure, at_ms: float, label: str, low: float, high: float, *, in_legend: bool = True
) -> None:
    """Draw a budget as a dashed vertical line from ``low`` to ``high`` on the y axis."""
    line = {"color": VERMILION, "dash": "dash", "width": 2}
    figure.add_scatter(x=[at_ms, at_ms], y=[low, high], mode="lines", name=label, line=line, showlegend=in_legend)


def apply_layout(figure: go.Figure, title: str, x: str | None, y: str | None, note: str, height: int) -> go.Figure:
    """Set title, note, height in pixels and axis titles; an axis whose title is ``None`` keeps its own. Returns ``figure``."""
    figure.update_layout(
        title={"text": f"{title}<br><sub>{note}</sub>", "y": 0.95, "yanchor": "top", "x": 0.02},
        height=height,
        margin={"t": 110, "l": 90, "r": 60, "b": 55},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    )
    if x is not None:
        figure.update_xaxes(title_text=x)
    if y is not None:
        figure.update_yaxes(title_text=y)
    return figure
