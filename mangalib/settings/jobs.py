"""Scheduled notebooks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from mangalib.settings.addresses import AwsSettings
from mangalib.settings.group import Count, Positive, output_folder, project_folder


class JobSettings(AwsSettings):
    """Where notebooks are and runs are kept, time-outs, and the kind of lease that keeps a job from running twice at once."""

    job_leases: Literal["file", "redis", "dynamodb"] = "file"
    notebooks_dir: Path = project_folder() / "notebooks"
    runs_url: str = str(output_folder())
    jobs_metrics_namespace: str = "MangaAssist/Jobs"
    job_lease_s: Positive = 60
    job_timeout_s: Positive = 900
    keep_runs_days: Positive = 90
    keep_runs: Count = 3_000
    evening_peak_hour_jst: Annotated[int, Field(ge=0, le=23)] = 20
