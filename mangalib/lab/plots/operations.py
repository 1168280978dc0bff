"""The operator's pictures: percentiles by intent over time, errors, who answered, costs and capacity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mangalib.lab.plots.streaming import BLUE, GREEN, GREY, ORANGE, VERMILION, laid_out
from mangalib.lab.tables.operations import Trouble

_LINES = (("p99", GREY, "dot", 1), ("p95", ORANGE, "dash", 2), ("p50", BLUE, "solid", 2))
_SOURCES = {"model": (GREY, ""), "semantic_cache": (BLUE, "/"), "trending": (ORANGE, "x"), "precomputed": (GREEN, ".")}


def percentiles_by_intent(
    table: pd.DataFrame, budgets_ms: Mapping[str, float], troubles: Sequence[Trouble], note: str
) -> go.Figure:
    """Small pictures, one an intent: p50, p95 and p99 over time with the budget; ``troubles`` are shaded."""
    intents = sorted(table["intent"].unique())
    rows = (len(intents) + 1) // 2
    figure = make_subplots(
        rows, 2, subplot_titles=intents, shared_xaxes=True, vertical_spacing=0.07, horizontal_spacing=0.08
    )
    for number, intent in enumerate(intents):
        row, column = number // 2 + 1, number % 2 + 1
        part = table[table["intent"] == intent]
        first = number == 0
        for name, color, dash, width in _LINES:
            line = {"color": color, "dash": dash, "width": width}
            figure.add_scatter(
                x=part["at"],
                y=part[name].round(1),
                mode="lines",
                name=name,
                line=line,
                showlegend=first,
                row=row,
                col=column,
            )
        ends = [part["at"].min(), part["at"].max()]
        line = {"color": VERMILION, "dash": "longdash", "width": 2}
        figure.add_scatter(
            x=ends,
            y=[budgets_ms[intent]] * 2,
            mode="lines",
            name="budget",
            line=line,
            showlegend=first,
            row=row,
            col=column,
        )
        for trouble in troubles:
            if trouble.intent == intent:
                span = {"fillcolor": VERMILION, "opacity": 0.15, "line_width": 0, "annotation_text": trouble.severity}
                figure.add_vrect(max(trouble.since, ends[0]), trouble.until or ends[1], **span, row=row, col=column)
        figure.update_yaxes(rangemode="tozero", title_text="ms" if column == 1 else "", row=row, col=column)
    title = "First token by intent; shaded since something is wrong"
    laid_out(figure, title, None, None, note, 210 * rows + 150)
    # Of so high a picture the usual place would be in the title.
    return figure.update_layout(legend={"y": 1.035}, margin={"t": 150})


def errors(table: pd.DataFrame, bands: Mapping[str, float], note: str) -> go.Figure:
    """The share of questions that failed over time, with the bands of the severities."""
    figure = go.Figure(go.Bar(x=table["at"], y=table["share"], marker={"color": BLUE}, name="failed"))
    for name, share in bands.items():
        figure.add_hline(share, line={"color": VERMILION, "dash": "dash"}, annotation_text=f"{name}: {share:.0%}")
    figure.update_yaxes(tickformat=".1%", rangemode="tozero")
    return laid_out(figure, "Questions that failed", "", "share of all", note, 300)


def sources(table: pd.DataFrame, note: str) -> go.Figure:
    """Who answered, by day: the model, or what was there before."""
    figure = go.Figure()
    for name in [name for name in _SOURCES if name in table]:
        color, pattern = _SOURCES[name]
        marker = {"color": color, "pattern": {"shape": pattern}}
        figure.add_bar(x=table["at"], y=table[name], name=name, marker=marker)
    figure.update_layout(barmode="stack")
    figure.update_yaxes(tickformat=".0%")
    return laid_out(figure, "Who answered", "", "share of answers", note, 320)


def shares_of_limits(table: pd.DataFrame, note: str) -> go.Figure:
    """How much of each limit the busiest hour takes."""
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
    return laid_out(figure, "The busiest hour beside the limits", "share of the limit", "", note, 300)
