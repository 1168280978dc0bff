"""``mangalib run``, ``schedule`` and ``runs``: notebooks headless, now or when they are due, and what came of them."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm.auto import tqdm

from mangalib.commands.running import sigterm_as_interrupt
from mangalib.errors import ScheduleError
from mangalib.settings import load_settings

if TYPE_CHECKING:
    from mangalib.jobs import Run, Runs, Schedule, Summary

_LISTED_DUE = 3
_output_dir = click.option(
    "--output-dir", metavar="URL", help="A folder or s3://bucket/prefix, instead of MANGA_RUNS_URL (papermill_runs/)."
)


@click.command()
@click.argument("notebook")
@click.option("-p", "parameters", type=(str, str), multiple=True, metavar="NAME VALUE", help="Set a parameter.")
@click.option(
    "-g", "grid", type=(str, str), multiple=True, metavar="NAME JSON", help="Run once for each value of a JSON list."
)
@click.option(
    "--scheduler", metavar="tcp://HOST:PORT", help="The Dask cluster that runs the grid, instead of this machine."
)
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=1), metavar="S", help="Seconds that it may take.")
@_output_dir
@click.option("--html", is_flag=True, help="Also write the executed notebook as a page.")
@click.option("--json", "as_json", is_flag=True, help="Print the result records as JSON.")
def run(
    notebook: str,
    parameters: tuple[tuple[str, str], ...],
    grid: tuple[tuple[str, str], ...],
    scheduler: str | None,
    timeout_s: float | None,
    output_dir: str | None,
    html: bool,
    as_json: bool,
) -> None:
    """Run a notebook headless, or `all` of them; leaves the executed notebook and its result record."""
    from mangalib.jobs import execute as jobs
    from mangalib.jobs import find_notebooks, job_of, points_of, run_grid, write_page

    settings = load_settings()
    values = {name: _value(text) for name, text in parameters}
    points = points_of({name: _value(text) for name, text in grid})
    wanted = [
        job_of(source, {**values, **point}, timeout_s=timeout_s or settings.job_timeout_s, html=html)
        for source in find_notebooks(notebook)
        for point in points
    ]
    runs = jobs.runs_in(output_dir or settings.runs_url, settings)
    done: list[Run] = []
    with sigterm_as_interrupt():
        for killed in runs.reap_orphans():
            click.echo(f"{killed.name}: {killed.record.error}", err=True)
        try:
            if scheduler is None and len(points) == 1:
                for job in tqdm(wanted, desc="notebooks", disable=len(wanted) < 2 or as_json):
                    done.append(jobs.run_job(job, runs, settings))
                    if not as_json:
                        _say(runs, done[-1])
            else:
                for ended in run_grid(wanted, runs.storage.url(), settings, scheduler, progress=not as_json):
                    done.append(ended)
                    if not as_json:
                        _say(runs, ended)
        finally:
            write_page(runs)
    if as_json:
        click.echo(json.dumps([_as_json(runs, ended) for ended in done], ensure_ascii=False))
    if not all(ended.ok for ended in done):
        sys.exit(1)


@click.command()
@click.option(
    "--file", "path", type=click.Path(path_type=Path, dir_okay=False), help="Instead of notebooks/schedule.yaml."
)
@click.option("--list", "list_only", is_flag=True, help="Only show each job and when it is due next.")
@click.option("--once", is_flag=True, help="Run what is due, and what has never run, then end.")
@click.option("--job", "name", metavar="NAME", help="With --once: this job only.")
@_output_dir
@click.option("--metrics", is_flag=True, help="Also print a CloudWatch record of each run, in embedded metric format.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a job, or a run.")
def schedule(
    path: Path | None,
    list_only: bool,
    once: bool,
    name: str | None,
    output_dir: str | None,
    metrics: bool,
    as_json: bool,
) -> None:
    """Run notebooks when they are due, until Ctrl-C or SIGTERM; a run that was missed is caught up once."""
    from mangalib.jobs import DEFAULT, Scheduler, WallClock, read_schedule
    from mangalib.jobs import execute as jobs
    from mangalib.serving import log_as_json, publish_job

    settings = load_settings()
    known = read_schedule(path or DEFAULT, settings)
    only = known.entry(name) if name else None
    if only and not once:
        raise ScheduleError("--job goes with --once")
    if list_only:
        _list(known, as_json)
        return
    log_as_json()
    runs = jobs.runs_in(output_dir or settings.runs_url, settings)
    failed = []

    def say(ended: Run) -> None:
        failed.extend([] if ended.ok else [ended.name])
        if metrics:
            publish_job(settings.jobs_metrics_namespace, job=ended.record.job, ok=ended.ok, duration_s=ended.duration_s)
        click.echo(json.dumps(_as_json(runs, ended), ensure_ascii=False)) if as_json else _say(runs, ended)

    with sigterm_as_interrupt():
        scheduler = Scheduler(known, runs, settings, clock=WallClock(), say=say)
        try:
            if once:
                scheduler.reap_orphans()
                if not scheduler.run_due(also_new=True, only=only) and not as_json:
                    click.echo("nothing is due")
            else:
                scheduler.run_forever()
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            return
    if failed or scheduler.failed_to_start:
        sys.exit(1)


@click.command("runs")
@_output_dir
@click.option("--notebook", metavar="NAME", help="Only those of one notebook.")
@click.option("--failed", is_flag=True, help="Only failures that nobody has looked at.")
@click.option("--count", default=20, type=click.IntRange(min=1), help="How many, the newest first.")
@click.option(
    "--seen", multiple=True, metavar="NAME|all", help="Note that a failure was looked at; retention may take it then."
)
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def list_runs(
    output_dir: str | None, notebook: str | None, failed: bool, count: int, seen: tuple[str, ...], as_json: bool
) -> None:
    """What ran: when, what, how it ended, its headline result, and how long it took."""
    from msgspec import to_builtins

    from mangalib.jobs import execute as jobs
    from mangalib.jobs import write_page

    settings = load_settings()
    runs = jobs.runs_in(output_dir or settings.runs_url, settings)
    for killed in runs.reap_orphans():
        click.echo(f"{killed.name}: {killed.record.error}", err=True)
    if seen:
        runs.acknowledge([run.name for run in runs.index() if run.unseen_failure] if "all" in seen else seen)
    found = [run for run in runs.index() if notebook in (None, run.notebook) and (run.unseen_failure or not failed)]
    write_page(runs)
    if as_json:
        click.echo(json.dumps(to_builtins(found[:count]), ensure_ascii=False))
        return
    for run in found[:count]:
        _line(run)
    click.echo(f"{min(count, len(found))} of {len(found)} runs; the page: {runs.storage.url('index.html')}")


def _line(run: Summary) -> None:
    took = f"{run.duration_s:6.0f} s" if run.duration_s is not None else " " * 8
    said = run.error if run.status == "failed" else run.headline
    unseen = " !" if run.unseen_failure else "  "
    click.echo(f"{run.started_at[:16].replace('T', ' ')}  {run.status:8}{unseen}{took}  {run.name}\n    {said}")


def _list(known: Schedule, as_json: bool) -> None:
    from itertools import islice

    now = datetime.now(UTC)
    for entry in known.entries:
        coming = [due.isoformat() for due in islice(entry.due_after(now), _LISTED_DUE)]
        if as_json:
            click.echo(json.dumps(entry.model_dump() | {"next": coming}, ensure_ascii=False))
            continue
        click.echo(f"{entry.name:24}{entry.notebook:28}{entry.cron:16}{entry.time_zone}")
        click.echo(f"    next, UTC: {', '.join(due[:16].replace('T', ' ') for due in coming)}")


def _say(runs: Runs, ended: Run) -> None:
    click.echo(f"{ended.name}: {ended.record.status}  {runs.storage.url(ended.name)}.ipynb")
    for name, value in ended.record.results.items():
        click.echo(f"    {name}: {value}")
    if ended.record.error:
        click.secho(f"    {ended.record.error}", fg="red", err=True)
    if ended.record.html:
        click.echo(f"    to read: {runs.storage.url(ended.name)}.html")


def _as_json(runs: Runs, ended: Run) -> dict[str, Any]:
    from msgspec import to_builtins

    return {**to_builtins(ended.record), "output": f"{runs.storage.url(ended.name)}.ipynb"}


def _value(text: str) -> Any:
    """A parameter as papermill's own command takes it: a number, true, false, null or JSON where it looks like one."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
