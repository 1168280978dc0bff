"""Plots of pre-computation: the transition model's accuracy and calibration, hit rates, cache accuracy, and warming."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from mangalib.lab.plots.style import BLUE, GREEN, GREY, ORANGE, VERMILION, apply_layout
from mangalib.precompute.prediction import HitRate
from mangalib.precompute.semantic_cache import Accuracy


def accuracy_by_order(table: pd.DataFrame, note: str) -> go.Figure:
    """Top-1, top-2 and top-4 accuracy by the Markov model's order; ``table`` has ``order, top1, top2, top4``."""
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
    title = "Accuracy by length of context"
    return apply_layout(figure, title, "order (intents of context)", "% of next intents predicted", note, 340)


def reliability_diagram(score: HitRate, note: str) -> go.Figure:
    """Observed frequency against predicted probability, by bins of probability."""
    predicted, observed, count = zip(*score.reliability, strict=True)
    figure = go.Figure()
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", name="calibrated", line={"color": GREY, "dash": "dash"})
    size = [8 + 30 * (n / max(count)) ** 0.5 for n in count]
    figure.add_scatter(
        x=predicted, y=observed, mode="markers", name="bins (size: questions)", marker={"size": size, "color": BLUE}
    )
    title = f"Calibration: expected error {score.calibration_error:.3f}"
    return apply_layout(figure, title, "predicted probability", "observed share", note, 360)


def hit_rate_by_trigger(table: pd.DataFrame, note: str) -> go.Figure:
    """Measured hit rates beside the specification's; ``table`` has ``trigger, hit_rate, expected``."""
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
    return apply_layout(figure, "Follow-ups answered from pre-computed answers", "", "% of follow-ups", note, 360)


def hit_rate_against_tokens(table: pd.DataFrame, chosen: float, note: str) -> go.Figure:
    """Hit rate against token cost with the chosen cut-off marked; ``table`` has ``cut_off, tokens, hit_rate``."""
    figure = go.Figure()
    figure.add_scatter(
        x=table["tokens"],
        y=100 * table["hit_rate"],
        text=[f"p of {cut:g} or more" for cut in table["cut_off"]],
        mode="lines+markers",
        name="probability cut-offs",
        marker={"color": BLUE, "size": 8},
    )
    point = table[table["cut_off"] == chosen]
    figure.add_scatter(
        x=point["tokens"],
        y=100 * point["hit_rate"],
        mode="markers",
        name=f"highest value: {chosen:g}",
        marker={"symbol": "star", "size": 18, "color": VERMILION},
    )
    return apply_layout(figure, "Hit rate against token cost", "tokens per question", "% of follow-ups hit", note, 360)


def cache_accuracy(result: Accuracy, note: str) -> go.Figure:
    """Hit rate against false-hit rate: the curve of a cosine threshold, the whole look-up, and the allowed bound."""
    figure = go.Figure()
    hits, false = zip(*result.curve, strict=True)
    figure.add_scatter(
        x=[100 * h for h in hits],
        y=[100 * f for f in false],
        mode="lines",
        name="cosine, any threshold",
        line={"color": ORANGE, "width": 3},
    )
    for name, rate, wrong, symbol, color in (
        ("cosine, tuned to the bound", result.cosine.hit_rate, result.cosine.false_hit_rate, "diamond", ORANGE),
        ("whole look-up", result.hit_rate, result.false_hit_rate, "star", BLUE),
    ):
        figure.add_scatter(
            x=[100 * rate],
            y=[100 * wrong],
            mode="markers",
            name=name,
            marker={"symbol": symbol, "size": 16, "color": color},
        )
    figure.add_hline(100 * result.bound, line={"color": VERMILION, "dash": "dot"}, annotation_text="bound")
    title = "Hits against false hits"
    return apply_layout(figure, title, "% of questions answered from the cache", "% of hits that were wrong", note, 380)


def warming_week(hours: pd.DataFrame, note: str) -> go.Figure:
    """Questions, hits and cached answers by hour; ``hours`` has ``hour, questions, hits, entries``."""
    figure = go.Figure()
    figure.add_bar(x=hours["hour"], y=hours["questions"], name="questions about titles", marker={"color": "#DDDDDD"})
    figure.add_bar(x=hours["hour"], y=hours["hits"], name="answered from the cache", marker={"color": BLUE})
    figure.add_scatter(
        x=hours["hour"], y=hours["entries"], name="answers in the cache", line={"color": ORANGE, "dash": "dash"}
    )
    figure.update_layout(barmode="overlay")
    return apply_layout(figure, "A week, hour by hour", "UTC", "per hour", note, 380)


def cost_per_second_saved(programs: pd.DataFrame, worth_usd: float, note: str) -> go.Figure:
    """US dollars per second saved, by warming program, beside the value of a second."""
    figure = go.Figure()
    names = [name.replace("_", " ") for name in programs["program"]]
    figure.add_bar(x=names, y=programs["usd_per_second_saved"], name="cost", marker={"color": GREEN})
    figure.add_hline(worth_usd, line={"color": VERMILION, "dash": "dot"}, annotation_text="value of a second")
    return apply_layout(figure, "Cost of a second saved", "", "US dollars", note, 340)


def questions_by_hour(counts: pd.Series[int], peak: int, note: str) -> go.Figure:
    """Questions by hour of the day in Japan, and the peak hour that warming targets; ``counts`` is indexed by hour."""
    colors = [ORANGE if hour == peak else BLUE for hour in counts.index]
    patterns = ["/" if hour == peak else "" for hour in counts.index]
    figure = go.Figure(go.Bar(x=counts.index, y=counts, marker={"color": colors, "pattern": {"shape": patterns}}))
    figure.add_vline(peak - 0.5, line={"color": VERMILION, "dash": "dash"}, annotation_text=f"warmed for {peak}:00")
    return apply_layout(figure, "Questions about titles by hour", "hour in Japan", "questions", note, 320)
