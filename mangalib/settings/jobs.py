"""Notebooks run as jobs: where they are, how long they may take, where their runs are kept, and how machines share them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from mangalib.settings.addresses import AddressSettings, AwsSettings, TableSettings
from mangalib.settings.benchmark import PagerSettings, StoreSettings
from mangalib.settings.group import Count, Group, Positive, output_folder, project_folder
from mangalib.settings.models import ModelSettings


class ScheduleSettings(Group):
    """Where the notebooks and ``schedule.yaml`` are, and the time-out of a job for which the schedule names none."""

    notebooks_dir: Path = project_folder() / "notebooks"
    job_timeout_s: Positive = 900


class RunSettings(AwsSettings):
    """Where runs are kept (a folder or ``s3://bucket/prefix``), and for how long."""

    runs_url: str = str(output_folder())
    keep_runs_days: Positive = 90
    keep_runs: Count = 3_000


class LeaseSettings(AddressSettings, TableSettings):
    """Leases keep two runs of one job apart: locked files on one machine, or Redis or DynamoDB for several machines."""

    job_leases: Literal["file", "redis", "dynamodb"] = "file"
    job_lease_s: Positive = 60


class JobSettings(ScheduleSettings, RunSettings, LeaseSettings, PagerSettings):
    """All that the scheduler reads."""

    jobs_metrics_namespace: str = "MangaAssist/Jobs"
    evening_peak_hour_jst: Annotated[int, Field(ge=0, le=23)] = 20


class AccountSettings(ModelSettings, JobSettings, StoreSettings):
    """What must exist in an AWS account before the laboratory can run there."""
