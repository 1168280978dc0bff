"""``mangalib benchmark`` and ``mangalib verdict``."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mangalib.commands.running import running_service
from mangalib.errors import SettingsError
from mangalib.settings import IncidentSettings, WorkloadSettings, load_settings

if TYPE_CHECKING:
    from distributed import Client as Cluster

    from mangalib.benchmark import BenchmarkRun, Store, Verdict
    from mangalib.benchmark.load import Conversation
    from mangalib.client import Client
    from mangalib.incidents import Incident


@click.command()
@click.option("--per-intent", type=click.IntRange(min=1), help="Questions of each intent, the discarded ones included.")
@click.option("--store", "store_url", metavar="URL", help="A folder or s3://bucket/prefix; by default MANGA_STORE.")
@click.option("--seed", type=int, help="Another seed asks other questions; only runs with the same seed compare.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Questions a second.")
@click.option(
    "--production",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also ask a sample of this query log (MANGA_QUERY_LOG of the orchestrator).",
)
@click.option("--scheduler", metavar="tcp://HOST:PORT", help="Ask from all workers of this Dask cluster.")
@click.option("--json", "as_json", is_flag=True, help="Print the run and its percentiles as JSON.")
def benchmark(
    per_intent: int | None,
    store_url: str | None,
    seed: int | None,
    rate: float | None,
    production: Path | None,
    scheduler: str | None,
    as_json: bool,
) -> None:
    """Make one run: every intent, open loop, appended to the store. When interrupted, keep what was answered and exit 130.

    Uses MANGA_WEBSOCKET_URL and MANGA_TOKEN; without them a local stack is started for the run.
    """
    from mangalib.benchmark import BenchmarkInterruptedError, Store
    from mangalib.benchmark.load import make_workload
    from mangalib.client import Client

    settings = load_settings()
    store = Store(store_url or settings.store, settings)
    # Fail before a local stack is started.
    store.require_past(datetime.now(UTC), settings.clock_tolerance_s)
    workload = make_workload(
        settings,
        per_intent=per_intent or settings.per_intent,
        seed=settings.benchmark_seed if seed is None else seed,
        production=production,
        rate_per_s=rate,
    )
    with running_service(quiet=as_json) as (url, token), _cluster(scheduler) as cluster:
        connect = partial(Client, url, token, settings=settings)
        try:
            run = asyncio.run(_run(connect, workload, store, settings, cluster, progress=not as_json))
        except BenchmarkInterruptedError as interruption:
            _print_run(interruption.run, as_json)
            click.echo(str(interruption), err=True)
            sys.exit(130)
    for worker, clock in run.clocks.items():
        click.echo(f"{worker}: clock {clock.ahead_s * 1000:+.1f} ms, within {clock.within_s * 1000:.1f} ms", err=True)
    if len(run.samples) < run.planned:
        click.echo(f"{run.planned - len(run.samples)} questions were lost with a worker", err=True)
    _print_run(run, as_json)


def _cluster(scheduler: str | None) -> AbstractContextManager[Cluster | None]:
    if scheduler is None:
        return nullcontext()
    from mangalib.cluster import cluster

    return cluster(scheduler)


async def _run(
    connect: Callable[[], Client],
    workload: list[Conversation],
    store: Store,
    settings: WorkloadSettings,
    cluster: Cluster | None,
    *,
    progress: bool,
) -> BenchmarkRun:
    from mangalib.benchmark import run_once

    # SIGTERM cancels the run as SIGINT does, instead of ending the event loop in the middle of it.
    task, before = asyncio.current_task(), signal.getsignal(signal.SIGTERM)
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await run_once(connect, workload, store, settings, cluster=cluster, progress=progress)
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before)


def _print_run(run: BenchmarkRun, as_json: bool) -> None:
    table = run.percentiles()
    if as_json:
        report = {
            "run_id": run.run_id,
            "started_at": run.started_at.isoformat(),
            "file": run.file,
            "planned": run.planned,
            "answered": int(run.samples["ok"].sum()),
            "failed": int((~run.samples["ok"]).sum()),
            "releases": sorted(run.releases),
            "by_intent": json.loads(table.to_json(orient="records")),
        }
        click.echo(json.dumps(report))
        return
    click.echo(f"{'':16}{'':14}{'answers':>8}{'failed':>8}{'p50':>8}{'p95':>8}{'p99':>8}  ms, 95 % interval of p95")
    for row in table.itertuples():
        click.echo(
            f"{row.intent:16}{row.metric:14}{row.answers:8}{row.failed:8}{row.p50:8.0f}{row.p95:8.0f}{row.p99:8.0f}"
            f"  {row.p95_low:.0f} to {row.p95_high:.0f}"
        )
    click.echo(f"run {run.run_id}: {run.file}")


@click.command()
@click.option("--store", "store_url", metavar="URL", help="A folder or s3://bucket/prefix; by default MANGA_STORE.")
@click.option("--run", "run_id", metavar="ID", help="Judge this run instead of the newest.")
@click.option("--fail-on", type=click.Choice(["sev1", "sev2", "sev3"]), help="Exit 1 at this severity, or a worse one.")
@click.option(
    "--act", "act", is_flag=True, help="Take the actions it requires: page, roll back, open or resolve the incident."
)
@click.option("--json", "as_json", is_flag=True, help="Print the whole verdict as JSON.")
def verdict(store_url: str | None, run_id: str | None, fail_on: str | None, act: bool, as_json: bool) -> None:
    """Judge the newest run against the last days: severity, what changed, since when, and by how much."""
    from mangalib.benchmark import Store, judge_run
    from mangalib.benchmark.detection import NAMES

    settings = load_settings()
    if act and run_id is not None:
        raise SettingsError("--act goes with the newest run only; expected no --run")
    started_s = time.process_time()
    result = judge_run(Store(store_url or settings.store, settings), settings, run_id=run_id)
    computing_s = time.process_time() - started_s
    incidents = _respond(result, settings) if act else []
    if as_json:
        from msgspec import to_builtins

        report = result.as_json() | {"computing_s": round(computing_s, 3), "incidents": to_builtins(incidents)}
        click.echo(json.dumps(report, ensure_ascii=False))
    else:
        _print_verdict(result, incidents)
    if fail_on is not None and result.severity >= {"sev3": 1, "sev2": 2, "sev1": 3}[fail_on]:
        click.echo(f"{NAMES[result.severity]} is as bad as {fail_on}, or worse", err=True)
        sys.exit(1)


def _respond(result: Verdict, settings: IncidentSettings) -> list[Incident]:
    from mangalib.incidents import respond_to_verdict
    from mangalib.serving import log_as_json

    log_as_json()
    return respond_to_verdict(result, settings)


def _print_verdict(result: Verdict, incidents: list[Incident]) -> None:
    from mangalib.benchmark.detection import NAMES
    from mangalib.incidents import describe

    click.secho(result.sentence, bold=True)
    for finding in result.findings:
        click.echo(f"  {NAMES[finding.severity]}  {finding.intent:16}{finding.metric:16}{finding.reason}")
    for line in result.improved:
        click.echo(f"  better  {line}")
    for row in result.comparison.dropna().itertuples():
        click.echo(
            f"  {row.intent:16}{row.metric:15} p50 {row.p50:6.0f} ms ({row.p50_shift_ms:+.0f} ms, {row.p50_shift:+.0%})"
            f"  p95 {row.p95:6.0f} ms ({row.p95_shift_ms:+.0f} ms, {row.p95_shift:+.0%}, "
            f"{row.p95_shift_low:+.0%} to {row.p95_shift_high:+.0%})  slower with {row.probability_slower:.0%}"
        )
    for note in result.notes:
        click.echo(f"  note: {note}")
    for incident in incidents:
        click.echo(f"  incident: {describe(incident)}")
