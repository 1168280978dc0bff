"""Notebooks on a schedule."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mangalib.settings.addresses import AwsSettings
from mangalib.settings.group import PROJECT, Count, Positive


class JobSettings(AwsSettings):
    """Runs, time-outs, and leases: files beside the runs, or what several machines share."""

    job_leases: Literal["file", "redis", "dynamodb"] = "file"
    runs_url: str = str(PROJECT / "papermill_runs")
    jobs_metrics_namespace: str = "MangaAssist/Jobs"
    job_lease_s: Positive = 60
    job_timeout_s: Positive = 900
    keep_runs_days: Positive = 90
    keep_runs: Count = 3_000
    evening_peak_hour_jst: Annotated[int, Field(ge=0, le=23)] = 20
