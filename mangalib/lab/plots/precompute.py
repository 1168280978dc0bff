"""Pictures of pre-computation: orders, calibration, hits by trigger, hits against tokens, accuracy, and a week of warming."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from mangalib.lab.plots.streaming import BLUE, GREEN, GREY, ORANGE, VERMILION, laid_out
from mangalib.precompute.prediction import HitRate
from mangalib.precompute.semantic_cache import Accuracy


def orders(table: pd.DataFrame, note: str) -> go.Figure:
    """Top 1, 2 and 4 by the model's order; ``table`` has ``order, top1, top2, top4``."""
    figure = go.Figure()
    for name, symbol, color in (("top1", "circle", BLUE), ("top2", "diamond", ORANGE), ("top4", "square", GREEN)):
        figure.add_scatter(
            x=table["order"],
            y=100 * table[name],
            name=name.replace("top", "top "),
            mode="lines+markers",
            marker={"symbol": symbol, "size": 10, "color": color},
        )
    figure.update_xaxes(dtick=1)
    title = "How far back the model looks, and how often it is right"
    return laid_out(figure, title, "order (intents of context)", "% of next intents foretold", note, 340)


def reliability(score: HitRate, note: str) -> go.Figure:
    """What was said against what was so, by bins of confidence."""
    said, was, count = zip(*score.reliability, strict=True)
    figure = go.Figure()
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", name="calibrated", line={"color": GREY, "dash": "dash"})
    size = [8 + 30 * (n / max(count)) ** 0.5 for n in count]
    figure.add_scatter(
        x=said, y=was, mode="markers", name="bins (size: questions)", marker={"size": size, "color": BLUE}
    )
    title = f"Calibration: expected error {score.calibration_error:.3f}"
    return laid_out(figure, title, "probability that was given", "share that was right", note, 360)


def by_trigger(table: pd.DataFrame, note: str) -> go.Figure:
    """Measured hit rates with the specification's drawn in; ``table`` as of ``sessions.hit_rates``."""
    figure = go.Figure()
    names = [name.replace("_", " ") for name in table["trigger"]]
    figure.add_bar(x=names, y=100 * table["hit_rate"], name="measured", marker={"color": BLUE})
    figure.add_scatter(
        x=names,
        y=100 * table["expected"],
        mode="markers",
        name="specification",
        marker={"symbol": "line-ew", "size": 46, "line": {"color": VERMILION, "width": 4}},
    )
    return laid_out(figure, "Follow-ups that were there before they were asked", "", "% of follow-ups", note, 360)


def tradeoff(table: pd.DataFrame, chosen: float, note: str) -> go.Figure:
    """Hit rate against tokens, the chosen cut-off marked; ``table`` as of ``precompute.tradeoff``."""
    figure = go.Figure()
    figure.add_scatter(
        x=table["tokens"],
        y=100 * table["hit_rate"],
        text=[f"p of {cut:g} or more" for cut in table["cut_off"]],
        mode="lines+markers",
        name="cut-offs of probability",
        marker={"color": BLUE, "size": 8},
    )
    point = table[table["cut_off"] == chosen]
    figure.add_scatter(
        x=point["tokens"],
        y=100 * point["hit_rate"],
        mode="markers",
        name=f"worth most: {chosen:g}",
        marker={"symbol": "star", "size": 18, "color": VERMILION},
    )
    return laid_out(figure, "What more tokens buy", "tokens a question", "% of follow-ups hit", note, 360)


def accuracy(found: Accuracy, note: str) -> go.Figure:
    """Hits against false hits: a cosine threshold's curve, and the whole look-up, with the bound drawn in."""
    figure = go.Figure()
    hits, false = zip(*found.curve, strict=True)
    figure.add_scatter(
        x=[100 * h for h in hits],
        y=[100 * f for f in false],
        mode="lines",
        name="cosine, any threshold",
        line={"color": ORANGE, "width": 3},
    )
    for name, rate, wrong, symbol, color in (
        ("cosine, tuned to the bound", found.cosine.hit_rate, found.cosine.false_hit_rate, "diamond", ORANGE),
        ("whole look-up", found.hit_rate, found.false_hit_rate, "star", BLUE),
    ):
        figure.add_scatter(
            x=[100 * rate],
            y=[100 * wrong],
            mode="markers",
            name=name,
            marker={"symbol": symbol, "size": 16, "color": color},
        )
    figure.add_hline(100 * found.bound, line={"color": VERMILION, "dash": "dot"}, annotation_text="bound")
    title = "Hits against false hits"
    return laid_out(figure, title, "% of questions answered from the cache", "% of those that were wrong", note, 380)


def week(hours: pd.DataFrame, note: str) -> go.Figure:
    """Questions, hits and what lies in the cache over time; ``hours`` as of ``precompute.week``."""
    figure = go.Figure()
    figure.add_bar(x=hours["hour"], y=hours["questions"], name="questions about titles", marker={"color": "#DDDDDD"})
    figure.add_bar(x=hours["hour"], y=hours["hits"], name="answered ahead", marker={"color": BLUE})
    figure.add_scatter(
        x=hours["hour"], y=hours["entries"], name="answers in the cache", line={"color": ORANGE, "dash": "dash"}
    )
    figure.update_layout(barmode="overlay")
    return laid_out(figure, "A week, hour by hour", "UTC", "an hour", note, 380)


def cost_of_time(programs: pd.DataFrame, worth_usd: float, note: str) -> go.Figure:
    """Dollars for each second saved, by programme, with what a second is worth drawn in."""
    figure = go.Figure()
    names = [name.replace("_", " ") for name in programs["program"]]
    figure.add_bar(x=names, y=programs["usd_per_second_saved"], name="cost", marker={"color": GREEN})
    figure.add_hline(worth_usd, line={"color": VERMILION, "dash": "dot"}, annotation_text="what a second is worth")
    return laid_out(figure, "What a second saved costs", "", "US dollars", note, 340)


def hours_of_the_day(counts: pd.Series[int], peak: int, note: str) -> go.Figure:
    """Questions by the hour of the Japanese day, with the hour that is warmed for; ``counts`` by hour."""
    colors = [ORANGE if hour == peak else BLUE for hour in counts.index]
    patterns = ["/" if hour == peak else "" for hour in counts.index]
    figure = go.Figure(go.Bar(x=counts.index, y=counts, marker={"color": colors, "pattern": {"shape": patterns}}))
    figure.add_vline(peak - 0.5, line={"color": VERMILION, "dash": "dash"}, annotation_text=f"warmed for {peak}:00")
    return laid_out(figure, "When titles are asked about", "hour in Japan", "questions", note, 320)
