"""The detector: which runs are worse than the runs before them, since when, and by how much.

>>> frame = replay(samples)                             # doctest: +SKIP
>>> frame[frame["severity"] >= 2]                       # doctest: +SKIP

It keeps no state but the samples: replaying the same store gives the same verdict everywhere. Two rules: ``sequential``, ours,
which sums evidence over runs (see ``latency_charts``), and ``textbook``, that of the specification, for comparison.
"""

from __future__ import annotations

from typing import Literal

import pandas as pd
from tqdm.auto import tqdm

from mangalib.benchmark.detection.decision import error_rows, latency_rows
from mangalib.benchmark.detection.error_charts import ErrorCharts
from mangalib.benchmark.detection.latency_charts import LatencyCharts
from mangalib.benchmark.detection.series import Series, checked, summarise
from mangalib.benchmark.detection.severity import Bands
from mangalib.benchmark.detection.textbook import apply_textbook_rule
from mangalib.benchmark.detection.verdict_frame import VerdictRow, as_frame
from mangalib.settings import DetectorSettings, load_settings

RuleName = Literal["sequential", "textbook"]


def replay(
    samples: pd.DataFrame,
    *,
    rule: RuleName = "sequential",
    settings: DetectorSettings | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Judge every run of ``samples`` by the runs before it.

    Parameters
    ----------
    samples : DataFrame in the store's columns, over any period and in any order
    rule : ``sequential`` or ``textbook``
    settings : the severity bands and the length of the baseline; by default those of the environment
    progress : whether to show a progress bar

    Returns
    -------
    DataFrame
        One row per run, intent and metric (``first_token_ms``, ``total_ms``, ``error_rate``), and under ``sequential``
        rows of intent ``*`` for all intents together. ``severity`` is 0 (none) to 3 (SEV-1). ``shift`` is that
        of the 95th percentile over the baseline as a share (0.25 is 25 % more) with its 95 % interval ``shift_low`` to
        ``shift_high``; for ``error_rate`` it is the share of requests that failed, with its 90 % interval. ``since`` is the
        start of the first run of the change, missing where there is none; ``direction`` is +1 where worse, -1 where better;
        ``reason`` is the explanation in words.

    Raises
    ------
    DataError
        A column is missing or of the wrong type, or a value is invalid (NaN, negative); names the run and the field.
    """
    settings = settings or load_settings()
    if rule == "textbook":
        return apply_textbook_rule(samples, settings=settings, progress=progress)
    if checked(samples).empty:
        return as_frame([])
    return detect_changes(summarise(samples), settings=settings, progress=progress)


def detect_changes(
    series: Series, *, settings: DetectorSettings, progress: bool = False, last: int | None = None
) -> pd.DataFrame:
    """The sequential rule on series, in the columns of :func:`replay`; only of the ``last`` runs, where given."""
    window_h = settings.baseline_days * 24
    latencies = LatencyCharts(series, window_h=window_h, accept_after_h=settings.improvement_lasts_h)
    errors = ErrorCharts(series, window_h=window_h)
    rows: list[VerdictRow] = []
    runs = range(len(series.run_ids))
    for run in tqdm(runs, desc="runs", disable=not progress, leave=False):
        latencies.step(run)
        errors.step(run)
        if last is None or run >= len(runs) - last:
            rows += latency_rows(series, run, latencies.state(), Bands.of_p95(settings))
            rows += error_rows(series, run, errors.state(), Bands.of_errors(settings))
    return as_frame(rows)
