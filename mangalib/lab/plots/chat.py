"""What the customer sees and when, chat beside chat, with the budgets."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from mangalib.lab.plots.style import BLUE, GREEN, GREY, ORANGE, add_budget_line, apply_layout

_MILESTONE_MARKERS = {
    "first sign": ("diamond", ORANGE),
    "first card": ("triangle-up", GREY),
    "first token": ("circle", BLUE),
    "last price": ("triangle-down", GREY),
    "end": ("square", GREEN),
}


def milestone_timeline(table: pd.DataFrame, measured: str, note: str) -> go.Figure:
    """One line per question and chat; ``table`` as from :func:`mangalib.chat.timeline.milestones`."""
    rows = list(dict.fromkeys(zip(table["question"], table["intent"], table["chat"], strict=True)))
    rows.sort(key=lambda row: (row[0], list(table["chat"].unique()).index(row[2])))
    row_of = {(question, chat): at for at, (question, _, chat) in enumerate(rows)}
    at_row = pd.Series([row_of[key] for key in zip(table["question"], table["chat"], strict=True)], index=table.index)
    figure = go.Figure()
    for (question, chat), at in row_of.items():
        times = table[(table["question"] == question) & (table["chat"] == chat)]["at_ms"]
        line = {"color": GREY, "width": 1}
        figure.add_scatter(x=[0, times.max()], y=[at, at], mode="lines", line=line, showlegend=False, hoverinfo="skip")
    for milestone, (symbol, color) in _MILESTONE_MARKERS.items():
        chosen = table["milestone"] == milestone
        marker = {"symbol": symbol, "color": color, "size": 13, "line": {"width": 1, "color": "white"}}
        figure.add_scatter(x=table["at_ms"][chosen], y=at_row[chosen], mode="markers", name=milestone, marker=marker)
    first = table["milestone"] == "first token"
    for number, index in enumerate(table.index[first]):
        at = at_row[index]
        label = "first-token budget"
        add_budget_line(figure, table["budget_ms"][index], label, at - 0.35, at + 0.35, in_legend=number == 0)
    labels = [f"{question}. {intent.replace('_', ' ')}, {chat}" for question, intent, chat in rows]
    figure.update_yaxes(
        tickvals=list(range(len(rows))), ticktext=labels, autorange="reversed", zeroline=False, automargin=True
    )
    title = f"What the customer sees, and when ({measured})"
    return apply_layout(figure, title, f"ms since the question was sent, {measured}", "", note, 200 + 44 * len(rows))
