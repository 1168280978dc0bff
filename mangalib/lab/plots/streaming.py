"""Pictures: titled, with units, the budget drawn in, in colours (Okabe & Ito, 2008) and shapes that all can tell apart."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
import plotly.io

BLUE, ORANGE, GREEN, VERMILION, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#999999"
_MARKS = {
    "status": ("diamond", ORANGE),
    "chunk": ("circle", BLUE),
    "card": ("triangle-up", VERMILION),
    "done": ("square", GREEN),
    "error": ("x", GREY),
}

# Small files: a figure carries its data only, and the front end draws it.
plotly.io.renderers.default = "plotly_mimetype"
plotly.io.templates.default = "none"


def frame_timeline(frames: dict[str, pd.DataFrame], budgets_ms: dict[str, float], note: str) -> go.Figure:
    """Every frame of each answer on a line of time; ``frames`` and ``budgets_ms`` by the answer's name."""
    figure = go.Figure()
    rows = {name: row for row, name in enumerate(frames)}
    for kind, (symbol, color) in _MARKS.items():
        points = [
            (frame.at_ms, rows[name], frame.shows)
            for name, table in frames.items()
            for frame in table[table["type"] == kind].itertuples()
        ]
        if points:
            at, row, shows = zip(*points, strict=True)
            marker = {"symbol": symbol, "color": color, "size": 11, "line": {"width": 1, "color": "white"}}
            figure.add_scatter(x=at, y=row, text=shows, mode="markers", name=kind, marker=marker)
    for name, budget_ms in budgets_ms.items():
        budget_line(figure, budget_ms, f"budget, {name}: {budget_ms:g} ms", rows[name] - 0.3, rows[name] + 0.3)
    figure.update_yaxes(tickvals=list(rows.values()), ticktext=list(rows), autorange="reversed", zeroline=False)
    return laid_out(figure, "Every frame of an answer, when it arrived", "ms since the query was sent", "", note, 330)


def reading_progress(answers: dict[str, pd.DataFrame], budget_ms: float, note: str) -> go.Figure:
    """Characters on the screen over time, one line an answer."""
    figure = go.Figure()
    styles = [(BLUE, "solid"), (GREEN, "dot")]  # neither looks like the dashed line of the budget
    for (name, table), (color, dash) in zip(answers.items(), styles, strict=False):
        line = {"color": color, "dash": dash, "width": 3, "shape": "hv"}
        figure.add_scatter(x=table["at_ms"], y=table["characters"], mode="lines", name=name, line=line)
    top = max(table["characters"].max() for table in answers.values())
    budget_line(figure, budget_ms, f"first-token budget: {budget_ms:g} ms", 0, float(top))
    return laid_out(
        figure, "What can be read, and when", "ms since the query was sent", "characters on screen", note, 380
    )


def stage_gantt(measured: pd.DataFrame, budget: pd.DataFrame, budget_ms: float, title: str, note: str) -> go.Figure:
    """Measured stages over the plan of the specification, as bars along the time."""
    figure = go.Figure()
    bars = (("budget", budget, GREY, "/"), ("measured (median)", measured, BLUE, ""))
    for name, table, color, pattern in bars:
        figure.add_bar(
            x=table["duration_ms"].clip(lower=1.0),
            y=table["stage"],
            base=table["start_ms"],
            orientation="h",
            name=name,
            marker={"color": color, "pattern": {"shape": pattern}},
            text=[f"{value:.0f} ms" if value >= 1 else "< 1 ms" for value in table["duration_ms"]],
            textposition="outside",
            cliponaxis=False,
        )
    order = list(measured["stage"])[::-1]
    figure.update_yaxes(categoryorder="array", categoryarray=order, automargin=True)
    figure.update_layout(barmode="group")
    figure.add_vline(budget_ms, line={"color": VERMILION, "dash": "dash"})
    figure.add_annotation(
        x=budget_ms, y=1.0, yref="paper", text=f"budget {budget_ms:g} ms", showarrow=False, xanchor="left", xshift=4
    )
    return laid_out(figure, title, "ms since the query was received", "", note, 430)


def warm_against_cold(table: pd.DataFrame, note: str) -> go.Figure:
    """Medians of each thing warm and cold, side by side, on a logarithmic scale; columns ``what, state, ms``."""
    figure = go.Figure()
    for state, color, pattern in (("warm", BLUE, ""), ("cold", ORANGE, "/")):
        medians = table[table["state"] == state].groupby("what", sort=False)["ms"].median()
        figure.add_bar(
            x=medians.index,
            y=medians,
            name=state,
            marker={"color": color, "pattern": {"shape": pattern}},
            text=[f"{value:.3g} ms" for value in medians],
            textposition="outside",
        )
    figure.update_yaxes(type="log")
    return laid_out(figure, "Warm against cold", "", "median, ms (logarithmic)", note, 380)


def confusion(matrix: pd.DataFrame, note: str) -> go.Figure:
    """Counts of true against found intent, the numbers written in."""
    figure = go.Figure(
        go.Heatmap(
            z=matrix.to_numpy(),
            x=list(matrix.columns),
            y=list(matrix.index),
            colorscale="Blues",
            showscale=False,
            text=[[str(value) if value else "" for value in row] for row in matrix.to_numpy()],
            texttemplate="%{text}",
        )
    )
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_xaxes(automargin=True)
    return laid_out(
        figure, "Held-out phrasings: what they are, and what they were taken for", "found", "true", note, 460
    )


def budget_line(
    figure: go.Figure, at_ms: float, label: str, low: float, high: float, *, in_legend: bool = True
) -> None:
    """A budget, dashed, from ``low`` to ``high``; of several with one label only one should be in the legend."""
    line = {"color": VERMILION, "dash": "dash", "width": 2}
    figure.add_scatter(x=[at_ms, at_ms], y=[low, high], mode="lines", name=label, line=line, showlegend=in_legend)


def laid_out(figure: go.Figure, title: str, x: str | None, y: str | None, note: str, height: int) -> go.Figure:
    """The look that all pictures share; an axis whose title is ``None`` keeps the one it has."""
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
