"""Plots of answers: frames and characters over time, the stages of the critical path, and the classifier's confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from mangalib.lab.plots.style import BLUE, GREEN, GREY, ORANGE, VERMILION, add_budget_line, apply_layout

_FRAME_MARKERS = {
    "status": ("diamond", ORANGE),
    "chunk": ("circle", BLUE),
    "card": ("triangle-up", VERMILION),
    "done": ("square", GREEN),
    "error": ("x", GREY),
}


def frame_timeline(frames: Mapping[str, pd.DataFrame], budgets_ms: Mapping[str, float], note: str) -> go.Figure:
    """Every frame of each answer along a time axis in ms; ``frames`` (from ``tables.frames``) and ``budgets_ms`` by answer."""
    figure = go.Figure()
    rows = {name: row for row, name in enumerate(frames)}
    for kind, (symbol, color) in _FRAME_MARKERS.items():
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
        add_budget_line(figure, budget_ms, f"budget, {name}: {budget_ms:g} ms", rows[name] - 0.3, rows[name] + 0.3)
    figure.update_yaxes(tickvals=list(rows.values()), ticktext=list(rows), autorange="reversed", zeroline=False)
    return apply_layout(
        figure, "Every frame of an answer, when it arrived", "ms since the query was sent", "", note, 330
    )


def reading_progress(answers: Mapping[str, pd.DataFrame], budget_ms: float, note: str) -> go.Figure:
    """Characters on the screen over time, one line per answer; tables as from ``tables.characters_over_time``."""
    figure = go.Figure()
    styles = [(BLUE, "solid"), (GREEN, "dot")]  # neither can be mistaken for the dashed budget line
    for (name, table), (color, dash) in zip(answers.items(), styles, strict=False):
        line = {"color": color, "dash": dash, "width": 3, "shape": "hv"}
        figure.add_scatter(x=table["at_ms"], y=table["characters"], mode="lines", name=name, line=line)
    top = max(table["characters"].max() for table in answers.values())
    add_budget_line(figure, budget_ms, f"first-token budget: {budget_ms:g} ms", 0, float(top))
    return apply_layout(
        figure, "What can be read, and when", "ms since the query was sent", "characters on screen", note, 380
    )


def rendering_timeline(milestones: Mapping[str, pd.DataFrame], note: str) -> go.Figure:
    """When each rendering step arrived beside its budget, by answer; tables as from ``tables.description_milestones``."""
    table = pd.concat([part.assign(row=f"{name}: " + part["step"]) for name, part in milestones.items()])
    figure = go.Figure()
    for column, name, marker in (
        ("budget_ms", "budget", {"symbol": "line-ns", "size": 22, "line": {"color": VERMILION, "width": 3}}),
        ("measured_ms", "measured", {"symbol": "circle", "size": 11, "color": BLUE}),
    ):
        figure.add_scatter(
            x=table[column].round(1), y=table["row"], mode="markers", name=name, marker=marker, cliponaxis=False
        )
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(categoryorder="array", categoryarray=list(table["row"])[::-1], automargin=True, ticks="outside")
    return apply_layout(figure, "Progressive rendering, step by step", "ms since the query was sent", "", note, 460)


def stage_gantt(measured: pd.DataFrame, budget: pd.DataFrame, budget_ms: float, title: str, note: str) -> go.Figure:
    """Measured stages beside their budgets in ms; from ``tables.measured_stages`` and ``tables.budgeted_stages``."""
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
    return apply_layout(figure, title, "ms since the query was received", "", note, 430)


def warm_against_cold(table: pd.DataFrame, note: str) -> go.Figure:
    """Median time of each resource, warm and cold, on a logarithmic scale; from ``cold_start.compare_warm_and_cold``."""
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
    return apply_layout(figure, "Warm against cold", "", "median, ms (logarithmic)", note, 380)


def confusion_heatmap(matrix: pd.DataFrame, note: str) -> go.Figure:
    """Counts by true and predicted intent; ``matrix`` as from ``tables.confusion_matrix``."""
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
    return apply_layout(
        figure, "Held-out phrasings: true and predicted intent", "predicted intent", "true intent", note, 460
    )
