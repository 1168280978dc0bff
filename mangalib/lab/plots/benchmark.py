"""Plots of the benchmark: percentiles, distributions, trends, savings, detection delays, and the timeline of an incident."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mangalib.benchmark.detection import NAMES
from mangalib.incidents import Incident
from mangalib.lab.plots.style import BLUE, GREEN, GREY, ORANGE, VERMILION, YELLOW, apply_layout

_SEVERITY_COLORS = (GREY, YELLOW, ORANGE, VERMILION)
_TITLES = {"first_token_ms": "first token", "total_ms": "whole answer"}


def intent_percentiles(table: pd.DataFrame, budgets_ms: Mapping[str, float], metric: str, note: str) -> go.Figure:
    """p50, p95 and p99 of each intent with 95 % intervals, and its budget; ``table`` has one row per intent and metric."""
    figure = go.Figure()
    rows = table[table["metric"] == metric]
    for name, symbol, color in (("p50", "circle", BLUE), ("p95", "diamond", ORANGE), ("p99", "x", GREY)):
        figure.add_scatter(
            x=rows[name],
            y=rows["intent"],
            mode="markers",
            name=name,
            marker={"symbol": symbol, "color": color, "size": 11},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": rows[f"{name}_high"] - rows[name],
                "arrayminus": rows[name] - rows[f"{name}_low"],
                "color": color,
                "thickness": 1,
            }
            if name != "p99"
            else None,
        )
    budget = [budgets_ms[intent] for intent in rows["intent"]]
    figure.add_scatter(
        x=budget,
        y=rows["intent"],
        mode="markers",
        name="budget",
        marker={"symbol": "line-ns", "size": 22, "line": {"color": VERMILION, "width": 3}},
    )
    figure.update_yaxes(automargin=True)
    title = f"{_TITLES[metric].capitalize()} by intent, with 95 % intervals"
    return apply_layout(figure, title, "ms since the question was due", "", note, 420)


def latency_distributions(run: np.ndarray, baseline: np.ndarray, intent: str, metric: str, note: str) -> go.Figure:
    """Cumulative distributions of a run's latencies and its baseline's, both in ms, drawn through at most 300 quantiles each."""
    figure = go.Figure()
    for name, values, color, dash in (("baseline", baseline, GREY, "dash"), ("this run", run, BLUE, "solid")):
        shares = np.linspace(0.002, 0.998, min(300, max(2, len(values))))
        line = {"color": color, "dash": dash, "width": 3}
        at = np.quantile(values, shares).round(1)
        figure.add_scatter(x=at, y=(100 * shares).round(2), mode="lines", name=name, line=line)
    figure.add_hline(95, line={"color": VERMILION, "dash": "dot"}, annotation_text="p95")
    figure.update_xaxes(type="log")
    title = f"{intent}, {_TITLES[metric]}: this run and its baseline"
    return apply_layout(figure, title, "ms (logarithmic)", "% of requests that were faster", note, 380)


def latency_trend(runs: pd.DataFrame, since: pd.Timestamp | None, budget_ms: float, title: str, note: str) -> go.Figure:
    """p50 and p95 in ms of each run over time, the budget, and when a change began; ``runs`` has ``started_at, p50, p95``."""
    figure = go.Figure()
    for name, color, symbol in (("p95", ORANGE, "diamond"), ("p50", BLUE, "circle")):
        marker = {"color": color, "symbol": symbol, "size": 5}
        figure.add_scatter(x=runs["started_at"], y=runs[name].round(1), mode="markers", name=name, marker=marker)
    if since is not None:
        top = float(runs["p95"].max())
        line = {"color": VERMILION, "dash": "dash", "width": 2}
        figure.add_scatter(
            x=[since, since], y=[0, top], mode="lines", name=f"changed {since:%d %b %H:%M} UTC", line=line
        )
    label = f"budget {budget_ms:g} ms"
    figure.add_hline(budget_ms, line={"color": VERMILION, "dash": "dot"}, annotation_text=label)
    return apply_layout(figure, title, "", "ms", note, 380)


def optimisation_savings(table: pd.DataFrame, note: str) -> go.Figure:
    """What each optimisation saves, with its 95 % interval, beside the specification's figure.

    ``table`` has ``what, unit`` (``ms`` or ``%``), ``saving, high, expected``.
    """
    units = [unit for unit in ("ms", "%") if (table["unit"] == unit).any()]
    heights = [0.82, 0.18] if len(units) == 2 else [1.0]
    figure = make_subplots(rows=len(units), cols=1, row_heights=heights, vertical_spacing=0.16)
    for row, unit in enumerate(units, start=1):
        part = table[(table["unit"] == unit) & table["saving"].notna()][::-1]
        interval = {"type": "data", "array": (part["high"] - part["saving"]).round(1), "color": "black"}
        figure.add_bar(
            x=part["saving"].round(1),
            y=part["what"],
            orientation="h",
            name="measured, with 95 % interval",
            marker={"color": BLUE},
            error_x=interval,
            showlegend=row == 1,
            row=row,
            col=1,
        )
        marker = {"symbol": "line-ns", "size": 20, "line": {"color": VERMILION, "width": 3}}
        figure.add_scatter(
            x=part["expected"],
            y=part["what"],
            mode="markers",
            name="expected by the specification",
            marker=marker,
            showlegend=row == 1,
            row=row,
            col=1,
        )
        figure.update_xaxes(title_text=f"saved, {unit}", row=row, col=1)
    figure.update_yaxes(automargin=True)
    return apply_layout(figure, "What each optimisation saves, measured by switching it off alone", None, "", note, 520)


def detection_delays(by_change: Mapping[str, Mapping[str, Sequence[int]]], note: str) -> go.Figure:
    """Share of changes detected within so many runs: a subplot per kind of change, a line per rule."""
    figure = make_subplots(rows=1, cols=len(by_change), subplot_titles=list(by_change), shared_yaxes=True)
    styles = {"ours": (BLUE, "solid"), "textbook": (GREY, "dash")}
    for column, rules in enumerate(by_change.values(), start=1):
        for name, runs in rules.items():
            color, dash = styles[name]
            x = np.arange(1, 26)
            detected = [round(100 * float(np.mean(np.array(runs) <= at)), 1) for at in x]
            line = {"color": color, "dash": dash, "width": 3, "shape": "hv"}
            figure.add_scatter(
                x=x, y=detected, mode="lines", name=name, line=line, showlegend=column == 1, row=1, col=column
            )
        figure.update_xaxes(title_text="runs", row=1, col=column)
    figure.update_yaxes(title_text="% of changes detected", row=1, col=1)
    apply_layout(figure, "How soon a change is detected (one run every 15 minutes)", None, None, note, 420)
    return figure.update_layout(legend={"y": -0.25, "yanchor": "top"}, margin={"b": 90})


def incident_timeline(incident: Incident, runs: pd.DataFrame, note: str) -> go.Figure:
    """First-token p95 of a drill's runs, and its incident's events; ``runs`` has ``started_at, p95, release, severity``."""
    figure = go.Figure()
    for severity in sorted(runs["severity"].unique()):
        part = runs[runs["severity"] == severity]
        marker = {"color": _SEVERITY_COLORS[severity], "size": 18, "line": {"width": 1, "color": "black"}}
        text = [f"release {number}" for number in part["release"]]
        name = "OK" if severity == 0 else NAMES[severity]
        figure.add_scatter(
            x=part["started_at"],
            y=part["p95"].round(0),
            mode="markers+text",
            text=text,
            textposition="top center",
            name=name,
            marker=marker,
        )
    moments = [(event.at, event.what) for event in incident.events]
    moments += [(action.at, name) for name, action in incident.actions.items()]
    top = float(runs["p95"].max()) * 1.25
    for (at, what), (color, dash) in zip(
        sorted(moments), [(VERMILION, "dash"), (ORANGE, "dot"), (BLUE, "dashdot"), (GREEN, "solid")] * 4, strict=False
    ):
        line = {"color": color, "dash": dash, "width": 2}
        figure.add_scatter(x=[at, at], y=[0, top], mode="lines", name=what, line=line)
    return apply_layout(figure, "The drill, run by run", "", "first token, p95 in ms", note, 420)
