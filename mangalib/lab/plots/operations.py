"""Plots for operators: percentiles by intent over time, error rate, sources of answers, and capacity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mangalib.lab.plots.style import BLUE, GREEN, GREY, ORANGE, VERMILION, apply_layout
from mangalib.lab.tables.operations import Degradation

_LINES = (("p99", GREY, "dot", 1), ("p95", ORANGE, "dash", 2), ("p50", BLUE, "solid", 2))
_SOURCES = {"model": (GREY, ""), "semantic_cache": (BLUE, "/"), "trending": (ORANGE, "x"), "precomputed": (GREEN, ".")}


def percentiles_over_time(
    table: pd.DataFrame, budgets_ms: Mapping[str, float], degradations: Sequence[Degradation], note: str
) -> go.Figure:
    """One subplot per intent: p50, p95 and p99 over time with the budget; ``degradations`` are shaded."""
    intents = sorted(table["intent"].unique())
    rows = (len(intents) + 1) // 2
    figure = make_subplots(
        rows, 2, subplot_titles=intents, shared_xaxes=True, vertical_spacing=0.07, horizontal_spacing=0.08
    )
    for number, intent in enumerate(intents):
        part = table[table["intent"] == intent]
        cell = {"row": number // 2 + 1, "col": number % 2 + 1}
        _add_percentiles(figure, part, budgets_ms[intent], in_legend=number == 0, **cell)
        start, end = part["at"].min(), part["at"].max()
        for degradation in degradations:
            if degradation.intent == intent:
                shade = {"fillcolor": VERMILION, "opacity": 0.15, "line_width": 0}
                since, until = max(degradation.since, start), degradation.until or end
                figure.add_vrect(since, until, annotation_text=degradation.severity, **shade, **cell)
        figure.update_yaxes(rangemode="tozero", title_text="ms" if cell["col"] == 1 else "", **cell)
    title = "First token by intent; degradations are shaded"
    apply_layout(figure, title, None, None, note, 210 * rows + 150)
    # In so tall a figure the usual legend position would overlap the title.
    return figure.update_layout(legend={"y": 1.035}, margin={"t": 150})


def _add_percentiles(
    figure: go.Figure, part: pd.DataFrame, budget_ms: float, *, in_legend: bool, row: int, col: int
) -> None:
    lines: list[tuple[str, Any, Any, dict[str, object]]] = [
        (name, part["at"], part[name].round(1), {"color": color, "dash": dash, "width": width})
        for name, color, dash, width in _LINES
    ]
    ends = [part["at"].min(), part["at"].max()]
    lines.append(("budget", ends, [budget_ms] * 2, {"color": VERMILION, "dash": "longdash", "width": 2}))
    for name, at, values, line in lines:
        figure.add_scatter(x=at, y=values, mode="lines", name=name, line=line, showlegend=in_legend, row=row, col=col)


def error_rate(table: pd.DataFrame, bands: Mapping[str, float], note: str) -> go.Figure:
    """Share of failed questions over time; ``bands`` is the lowest share of each severity."""
    figure = go.Figure(go.Bar(x=table["at"], y=table["share"], marker={"color": BLUE}, name="failed"))
    for name, share in bands.items():
        figure.add_hline(share, line={"color": VERMILION, "dash": "dash"}, annotation_text=f"{name}: {share:.0%}")
    figure.update_yaxes(tickformat=".1%", rangemode="tozero")
    return apply_layout(figure, "Questions that failed", "", "share of all", note, 300)


def answer_sources(table: pd.DataFrame, note: str) -> go.Figure:
    """Share of answers by source over time; ``table`` as from ``tables.source_shares``."""
    figure = go.Figure()
    for name in [name for name in _SOURCES if name in table]:
        color, pattern = _SOURCES[name]
        marker = {"color": color, "pattern": {"shape": pattern}}
        figure.add_bar(x=table["at"], y=table[name], name=name, marker=marker)
    figure.update_layout(barmode="stack")
    figure.update_yaxes(tickformat=".0%")
    return apply_layout(figure, "Where answers came from", "", "share of answers", note, 320)


def capacity_use(table: pd.DataFrame, note: str) -> go.Figure:
    """How much of each limit the busiest hour uses; ``table`` as from ``tables.capacity``."""
    figure = go.Figure(
        go.Bar(
            x=table["share"],
            y=table["what"],
            orientation="h",
            marker={"color": BLUE},
            text=[f"{row.used:,.0f} of {row.limit:,}" for row in table.itertuples()],
            textposition="outside",
            cliponaxis=False,
        )
    )
    figure.add_vline(1.0, line={"color": VERMILION, "dash": "dash"}, annotation_text="limit")
    figure.update_xaxes(tickformat=".0%", range=[0, max(1.2, float(table["share"].max()) * 1.2)])
    figure.update_yaxes(automargin=True, autorange="reversed")
    return apply_layout(figure, "The busiest hour against the limits", "share of the limit", "", note, 300)
