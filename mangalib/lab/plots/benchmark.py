"""Pictures of the benchmark: percentiles, distributions, trends, savings, delays, and the life of an incident."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mangalib.benchmark.detection import NAMES
from mangalib.incidents import Incident
from mangalib.lab.plots.streaming import BLUE, GREEN, GREY, ORANGE, VERMILION, laid_out

_SEVERITY_COLORS = (GREY, "#F0E442", ORANGE, VERMILION)
_TITLES = {"first_token_ms": "first token", "total_ms": "whole answer"}


def percentiles(table: pd.DataFrame, budgets_ms: Mapping[str, float], metric: str, note: str) -> go.Figure:
    """p50, p95 and p99 of each intent with 95 % intervals, and its budget; ``table`` from ``benchmark.intent_percentiles``."""
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
    return laid_out(figure, title, "ms since the question was due", "", note, 420)


def overlaid(now: np.ndarray, before: np.ndarray, intent: str, metric: str, note: str) -> go.Figure:
    """How many requests of a run, and of its baseline, were faster than each latency; 300 points stand for a long one."""
    figure = go.Figure()
    for name, values, color, dash in (("baseline", before, GREY, "dash"), ("this run", now, BLUE, "solid")):
        shares = np.linspace(0.002, 0.998, min(300, max(2, len(values))))
        line = {"color": color, "dash": dash, "width": 3}
        at = np.quantile(values, shares).round(1)
        figure.add_scatter(x=at, y=(100 * shares).round(2), mode="lines", name=name, line=line)
    figure.add_hline(95, line={"color": VERMILION, "dash": "dot"}, annotation_text="p95")
    figure.update_xaxes(type="log")
    title = f"{intent}, {_TITLES[metric]}: this run over its baseline"
    return laid_out(figure, title, "ms (logarithmic)", "% of requests that were faster", note, 380)


def trend(runs: pd.DataFrame, since: pd.Timestamp | None, budget_ms: float, title: str, note: str) -> go.Figure:
    """p50 and p95 of each run over time, with the budget and the moment of a change; ``runs`` has ``started_at, p50, p95``."""
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
    return laid_out(figure, title, "", "ms", note, 380)


def savings(table: pd.DataFrame, note: str) -> go.Figure:
    """What each optimisation saves, with its interval, beside what is expected of it; ``table`` as of ``ablation.savings``."""
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
    return laid_out(figure, "What each optimisation saves, switched off alone", None, "", note, 520)


def delays(by_rule: Mapping[str, Mapping[str, Sequence[int]]], note: str) -> go.Figure:
    """Share of changes that are seen within so many runs; by what changed, and by rule."""
    figure = make_subplots(rows=1, cols=len(by_rule), subplot_titles=list(by_rule), shared_yaxes=True)
    styles = {"ours": (BLUE, "solid"), "textbook": (GREY, "dash")}
    for column, (_, rules) in enumerate(by_rule.items(), start=1):
        for name, runs in rules.items():
            color, dash = styles[name]
            x = np.arange(1, 26)
            seen = [round(100 * float(np.mean(np.array(runs) <= at)), 1) for at in x]
            line = {"color": color, "dash": dash, "width": 3, "shape": "hv"}
            figure.add_scatter(
                x=x, y=seen, mode="lines", name=name, line=line, showlegend=column == 1, row=1, col=column
            )
        figure.update_xaxes(title_text="runs", row=1, col=column)
    figure.update_yaxes(title_text="% of changes seen", row=1, col=1)
    laid_out(figure, "How soon a change is seen (a run is 15 minutes)", None, None, note, 420)
    return figure.update_layout(legend={"y": -0.25, "yanchor": "top"}, margin={"b": 90})


def incident_life(incident: Incident, runs: pd.DataFrame, note: str) -> go.Figure:
    """The runs of a drill by their first token's p95, and what happened to the incident; ``runs`` has
    ``started_at, p95, release, severity``."""
    figure = go.Figure()
    for severity in sorted(runs["severity"].unique()):
        part = runs[runs["severity"] == severity]
        marker = {"color": _SEVERITY_COLORS[severity], "size": 18, "line": {"width": 1, "color": "black"}}
        text = [f"release {number}" for number in part["release"]]
        name = "all right" if severity == 0 else NAMES[severity]
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
    return laid_out(figure, "The drill, run by run", "", "first token, p95 in ms", note, 420)
