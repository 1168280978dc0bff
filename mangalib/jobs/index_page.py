"""The index of runs as a page: what fails now, unacknowledged failures, and every run with links to its files."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import jinja2

from mangalib.jobs.records import FAILED, OK, RUNNING, RunSummary
from mangalib.jobs.runs import Runs

log = logging.getLogger(__name__)

PAGE = "index.html"
_SIGNS = {OK: "✓ ok", FAILED: "✗ failed", RUNNING: "… running"}
_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("mangalib.jobs"), autoescape=True, undefined=jinja2.StrictUndefined
)


def write_page(runs: Runs) -> None:
    """Write the page beside the runs; on an ``OSError`` log it and go on."""
    try:
        runs.storage.write(PAGE, index_html(runs.index(), datetime.now(UTC)))
    except OSError as error:
        log.warning("%s could not be written: %s", runs.storage.url(PAGE), error)


def index_html(runs: list[RunSummary], now: datetime) -> str:
    """The page of these runs; ``runs`` are the newest first."""
    latest: dict[str, RunSummary] = {}
    for run in runs:
        latest.setdefault(run.notebook, run)
    return _TEMPLATES.get_template("index.html.j2").render(
        runs=runs,
        now=now,
        signs=_SIGNS,
        unacknowledged=[run for run in runs if run.unacknowledged],
        latest=[latest[notebook] for notebook in sorted(latest)],
        failing=sorted(run.notebook for run in latest.values() if run.status == FAILED),
    )
