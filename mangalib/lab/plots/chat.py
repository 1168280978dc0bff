"""What the customer sees and when, chat beside chat, with the budgets drawn in."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from mangalib.lab.plots.streaming import BLUE, GREEN, GREY, ORANGE, budget_line, laid_out

_MARKS = {
    "first sign": ("diamond", ORANGE),
    "first card": ("triangle-up", GREY),
    "first token": ("circle", BLUE),
    "last price": ("triangle-down", GREY),
    "end": ("square", GREEN),
}


def on_screen(table: pd.DataFrame, measured: str, note: str) -> go.Figure:
    """A line a question and chat, from :func:`mangalib.chat.timeline.milestones`; the first token's budget is dashed."""
    rows = list(dict.fromkeys(zip(table["question"], table["intent"], table["chat"], strict=True)))
    rows.sort(key=lambda row: (row[0], list(table["chat"].unique()).index(row[2])))
    place = {(question, chat): at for at, (question, _, chat) in enumerate(rows)}
    at_row = pd.Series([place[key] for key in zip(table["question"], table["chat"], strict=True)], index=table.index)
    figure = go.Figure()
    for (question, chat), at in place.items():
        spoken = table[(table["question"] == question) & (table["chat"] == chat)]["at_ms"]
        line = {"color": GREY, "width": 1}
        figure.add_scatter(x=[0, spoken.max()], y=[at, at], mode="lines", line=line, showlegend=False, hoverinfo="skip")
    for milestone, (symbol, color) in _MARKS.items():
        chosen = table["milestone"] == milestone
        marker = {"symbol": symbol, "color": color, "size": 13, "line": {"width": 1, "color": "white"}}
        figure.add_scatter(x=table["at_ms"][chosen], y=at_row[chosen], mode="markers", name=milestone, marker=marker)
    first = table["milestone"] == "first token"
    for number, index in enumerate(table.index[first]):
        at = at_row[index]
        label = "budget of the first token"
        budget_line(figure, table["budget_ms"][index], label, at - 0.35, at + 0.35, in_legend=number == 0)
    labels = [f"{question}. {intent.replace('_', ' ')}, {chat}" for question, intent, chat in rows]
    figure.update_yaxes(
        tickvals=list(range(len(rows))), ticktext=labels, autorange="reversed", zeroline=False, automargin=True
    )
    title = f"What the customer sees, and when ({measured})"
    return laid_out(figure, title, f"ms since the question was sent, {measured}", "", note, 200 + 44 * len(rows))
