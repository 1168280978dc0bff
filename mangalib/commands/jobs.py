"""``mangalib run``, ``schedule`` and ``runs``: notebooks executed headless, now or when they are due, and their results."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mangalib.commands.running import sigterm_as_interrupt
from mangalib.errors import ScheduleError
from mangalib.settings import JobSettings, load_settings

if TYPE_CHECKING:
    from mangalib.jobs import Entry, Job, Run, Runs, RunSummary, Schedule, Scheduler

_LISTED_DUE = 3
_output_dir = click.option(
    "--output-dir",
    metavar="URL",
    help="A folder or s3://bucket/prefix, instead of MANGA_RUNS_URL (by default papermill_runs/).",
)


@click.command("run")
@click.argument("notebook")
@click.option("-p", "parameters", type=(str, str), multiple=True, metavar="NAME VALUE", help="Set a parameter.")
@click.option(
    "-g", "grid", type=(str, str), multiple=True, metavar="NAME JSON", help="Run once for each value of a JSON list."
)
@click.option(
    "--scheduler", metavar="tcp://HOST:PORT", help="The Dask cluster that runs the grid, instead of this machine."
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=1),
    metavar="S",
    help="The notebook's time-out in seconds, instead of MANGA_JOB_TIMEOUT_S.",
)
@_output_dir
@click.option("--html", is_flag=True, help="Also write the executed notebook as an HTML page.")
@click.option("--json", "as_json", is_flag=True, help="Print the result records as JSON.")
def run_command(
    notebook: str,
    parameters: tuple[tuple[str, str], ...],
    grid: tuple[tuple[str, str], ...],
    scheduler: str | None,
    timeout_s: float | None,
    output_dir: str | None,
    html: bool,
    as_json: bool,
) -> None:
    """Run a notebook headless, or `all` of them; writes the executed notebook and its result record."""
    from mangalib.jobs import find_notebooks, grid_points, job_of, open_runs, write_page

    settings = load_settings()
    values = {name: _value(text) for name, text in parameters}
    points = grid_points({name: _value(text) for name, text in grid})
    jobs = [
        job_of(source, {**values, **point}, timeout_s=timeout_s or settings.job_timeout_s, html=html)
        for source in find_notebooks(notebook, settings)
        for point in points
    ]
    runs = open_runs(output_dir or settings.runs_url, settings)
    finished: list[Run] = []
    with sigterm_as_interrupt():
        _reap_orphans(runs)
        try:
            on_cluster = scheduler is not None or len(points) > 1
            for run in _run_all(jobs, runs, settings, on_cluster, scheduler, progress=not as_json):
                finished.append(run)
                if not as_json:
                    _print_run(runs, run)
        finally:
            write_page(runs)
    if as_json:
        click.echo(json.dumps([_as_json(runs, run) for run in finished], ensure_ascii=False))
    if not all(run.ok for run in finished):
        sys.exit(1)


def _run_all(
    jobs: Sequence[Job], runs: Runs, settings: JobSettings, on_cluster: bool, scheduler: str | None, *, progress: bool
) -> Iterator[Run]:
    from tqdm.auto import tqdm

    if on_cluster:
        from mangalib.jobs import run_grid

        yield from run_grid(jobs, runs.storage.url(), settings, scheduler, progress=progress)
        return
    from mangalib.jobs import run_job

    for job in tqdm(jobs, desc="notebooks", disable=len(jobs) < 2 or not progress):
        yield run_job(job, runs, settings)


@click.command("schedule")
@click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Instead of schedule.yaml in MANGA_NOTEBOOKS_DIR (by default notebooks/).",
)
@click.option("--list", "list_only", is_flag=True, help="Only show each job and when it is due next.")
@click.option("--once", is_flag=True, help="Run the jobs that are due or have never run, then exit.")
@click.option("--job", "name", metavar="NAME", help="With --once: this job only.")
@_output_dir
@click.option("--metrics", is_flag=True, help="Also print CloudWatch metrics of each run, in embedded metric format.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per job or run.")
def schedule_command(
    path: Path | None,
    list_only: bool,
    once: bool,
    name: str | None,
    output_dir: str | None,
    metrics: bool,
    as_json: bool,
) -> None:
    """Run notebooks when they are due, until Ctrl-C or SIGTERM; missed due times are caught up with one run."""
    from mangalib.jobs import Scheduler, WallClock, open_runs, read_schedule
    from mangalib.serving import log_as_json, publish_job

    settings = load_settings()
    schedule = read_schedule(path or settings.notebooks_dir / "schedule.yaml", settings)
    only = schedule.entry(name) if name else None
    if only and not once:
        raise ScheduleError("--job needs --once")
    if list_only:
        _print_schedule(schedule, as_json)
        return
    log_as_json()
    runs = open_runs(output_dir or settings.runs_url, settings)
    ok = True

    def report(run: Run) -> None:
        nonlocal ok
        ok = ok and run.ok
        if metrics:
            duration_s = run.record.duration_s or 0.0
            publish_job(settings.jobs_metrics_namespace, job=run.record.job, ok=run.ok, duration_s=duration_s)
        click.echo(json.dumps(_as_json(runs, run), ensure_ascii=False)) if as_json else _print_run(runs, run)

    scheduler = Scheduler(schedule, runs, settings, clock=WallClock(), on_finished=report)
    with sigterm_as_interrupt():
        try:
            if once:
                _run_once(scheduler, only, as_json)
            else:
                scheduler.run_forever()
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            return
    if not ok or scheduler.failed_to_start:
        sys.exit(1)


def _run_once(scheduler: Scheduler, only: Entry | None, as_json: bool) -> None:
    scheduler.reap_orphans()
    if not scheduler.run_due(also_new=True, only=only) and not as_json:
        click.echo("nothing is due")


@click.command("runs")
@_output_dir
@click.option("--notebook", metavar="NAME", help="Only the runs of one notebook.")
@click.option("--failed", is_flag=True, help="Only unacknowledged failures.")
@click.option("--count", default=20, type=click.IntRange(min=1), help="How many, the newest first.")
@click.option(
    "--seen", multiple=True, metavar="NAME|all", help="Acknowledge a failure, so that retention may delete its run."
)
@click.option("--json", "as_json", is_flag=True, help="Print the runs as JSON.")
def runs_command(
    output_dir: str | None, notebook: str | None, failed: bool, count: int, seen: tuple[str, ...], as_json: bool
) -> None:
    """List runs: when, which notebook, how it ended, its headline result, and how long it took."""
    from msgspec import to_builtins

    from mangalib.jobs import PAGE, open_runs, write_page

    settings = load_settings()
    runs = open_runs(output_dir or settings.runs_url, settings)
    _reap_orphans(runs)
    if seen:
        runs.acknowledge([run.name for run in runs.index() if run.unacknowledged] if "all" in seen else seen)
    chosen = [run for run in runs.index() if notebook in (None, run.notebook) and (run.unacknowledged or not failed)]
    write_page(runs)
    if as_json:
        click.echo(json.dumps(to_builtins(chosen[:count]), ensure_ascii=False))
        return
    for run in chosen[:count]:
        _print_summary(run)
    click.echo(f"{min(count, len(chosen))} of {len(chosen)} runs; the page: {runs.storage.url(PAGE)}")


def _reap_orphans(runs: Runs) -> None:
    from mangalib.jobs import reap_orphans

    for killed in reap_orphans(runs):
        click.echo(f"{killed.name}: {killed.record.error}", err=True)


def _print_summary(run: RunSummary) -> None:
    took = f"{run.duration_s:6.0f} s" if run.duration_s is not None else " " * 8
    result = run.error if run.status == "failed" else run.headline
    mark = " !" if run.unacknowledged else "  "
    click.echo(f"{run.started_at[:16].replace('T', ' ')}  {run.status:8}{mark}{took}  {run.name}\n    {result}")


def _print_schedule(schedule: Schedule, as_json: bool) -> None:
    from itertools import islice

    now = datetime.now(UTC)
    for entry in schedule.entries:
        dues = [due.isoformat() for due in islice(entry.due_after(now), _LISTED_DUE)]
        if as_json:
            click.echo(json.dumps(entry.model_dump() | {"next": dues}, ensure_ascii=False))
            continue
        click.echo(f"{entry.name:24}{entry.notebook:28}{entry.cron:16}{entry.time_zone}")
        click.echo(f"    next, UTC: {', '.join(due[:16].replace('T', ' ') for due in dues)}")


def _print_run(runs: Runs, run: Run) -> None:
    click.echo(f"{run.name}: {run.record.status}  {runs.storage.url(run.name)}.ipynb")
    for name, value in run.record.results.items():
        click.echo(f"    {name}: {value}")
    if run.record.error:
        click.secho(f"    {run.record.error}", fg="red", err=True)
    if run.record.html:
        click.echo(f"    to read: {runs.storage.url(run.name)}.html")


def _as_json(runs: Runs, run: Run) -> dict[str, Any]:
    from msgspec import to_builtins

    return {**to_builtins(run.record), "output": f"{runs.storage.url(run.name)}.ipynb"}


def _value(text: str) -> Any:
    """A parameter's value, read as papermill's own command reads it: as JSON if it is JSON, else as text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
