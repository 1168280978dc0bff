"""``mangalib benchmark`` and ``mangalib verdict``."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from mangalib.commands.running import running_service
from mangalib.errors import MangaError, SettingsError
from mangalib.settings import Settings, load_settings


@click.command()
@click.option("--per-intent", type=click.IntRange(min=1), help="Questions of each intent, the discarded ones included.")
@click.option("--store", "store_url", metavar="URL", help="A folder or s3://bucket/prefix; by default MANGA_STORE.")
@click.option("--seed", type=int, help="Another seed asks other questions; runs are compared with the same.")
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
    """One run: every intent, open loop, appended to the store. Interrupted, it keeps what was answered, and exits 130.

    Uses MANGA_WEBSOCKET_URL and MANGA_TOKEN; without them a local stack is started for this run.
    """
    from mangalib.benchmark import Store
    from mangalib.benchmark.load import Runner, make_workload
    from mangalib.client import Client

    settings = load_settings()
    store = Store(store_url or settings.store, settings)
    store.require_past(datetime.now(UTC), settings.clock_tolerance_s)
    workload = make_workload(
        settings,
        per_intent=per_intent or settings.per_intent,
        seed=settings.benchmark_seed if seed is None else seed,
        production=production,
        rate_per_s=rate,
    )
    interrupted = False
    with running_service(quiet=as_json) as (url, token):
        if scheduler is not None:
            runner = _spread(scheduler, workload, url, token, settings, as_json)
        else:
            runner = Runner(lambda: Client(url, token, settings=settings), workload, settings, progress=not as_json)
            try:
                asyncio.run(runner.run())
            except KeyboardInterrupt:
                interrupted = True
    if not runner.outcomes:
        raise MangaError("interrupted before the first answer: there is nothing to keep")
    samples = runner.samples()
    path = store.append(samples)
    store.compact(runner.started_at.date())
    _print_run(runner, samples, path, as_json)
    if interrupted:
        click.echo(f"interrupted: {len(runner.outcomes)} of {runner.planned} questions are kept", err=True)
        sys.exit(130)


def _spread(scheduler: str, workload: Any, url: str, token: str, settings: Settings, as_json: bool) -> Any:
    from mangalib.benchmark.load import run_distributed
    from mangalib.cluster import cluster

    with cluster(scheduler) as client:
        runner, clocks = run_distributed(client, workload, url, token, settings, progress=not as_json)
    for worker, clock in clocks.items():
        click.echo(f"{worker}: clock {clock.ahead_s * 1000:+.1f} ms, within {clock.within_s * 1000:.1f} ms", err=True)
    if len(runner.outcomes) < runner.planned:
        click.echo(f"{runner.planned - len(runner.outcomes)} questions were lost with a worker", err=True)
    return runner


def _print_run(runner: Any, samples: Any, path: str, as_json: bool) -> None:
    from mangalib.benchmark import by_intent

    table = by_intent(samples)
    if as_json:
        report = {
            "run_id": runner.run_id,
            "started_at": runner.started_at.isoformat(),
            "file": path,
            "planned": runner.planned,
            "answered": int(samples["ok"].sum()),
            "failed": int((~samples["ok"]).sum()),
            "releases": sorted(runner.releases),
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
    click.echo(f"run {runner.run_id}: {path}")


@click.command()
@click.option("--store", "store_url", metavar="URL", help="A folder or s3://bucket/prefix; by default MANGA_STORE.")
@click.option("--run", "run_id", metavar="ID", help="Judge this run instead of the newest.")
@click.option("--fail-on", type=click.Choice(["sev1", "sev2", "sev3"]), help="Exit 1 at this severity, or a worse one.")
@click.option(
    "--act", "do_act", is_flag=True, help="Do what it asks for: page, roll back, open or resolve the incident."
)
@click.option("--json", "as_json", is_flag=True, help="Everything an engineer wants to see, as JSON.")
def verdict(store_url: str | None, run_id: str | None, fail_on: str | None, do_act: bool, as_json: bool) -> None:
    """The newest run against the last days: how bad, what, since when, by how much."""
    from mangalib.benchmark import Store, judge_run
    from mangalib.benchmark.detection import NAMES

    settings = load_settings()
    if do_act and run_id is not None:
        raise SettingsError("--act goes with the newest run only: what an earlier one asked for is past")
    started_s = time.process_time()
    found = judge_run(Store(store_url or settings.store, settings), settings, run_id=run_id)
    computing_s = time.process_time() - started_s
    incidents = _act(found, settings) if do_act else []
    if as_json:
        from msgspec import to_builtins

        report = found.as_json() | {"computing_s": round(computing_s, 3), "incidents": to_builtins(incidents)}
        click.echo(json.dumps(report, ensure_ascii=False))
    else:
        _print_verdict(found, incidents)
    if fail_on is not None and found.severity >= {"sev3": 1, "sev2": 2, "sev1": 3}[fail_on]:
        click.echo(f"{NAMES[found.severity]} is as bad as {fail_on}, or worse", err=True)
        sys.exit(1)


def _act(found: Any, settings: Settings) -> list[Any]:
    from mangalib.incidents import act_on
    from mangalib.serving import log_as_json

    log_as_json()
    return act_on(found, settings)


def _print_verdict(found: Any, incidents: list[Any]) -> None:
    from mangalib.benchmark.detection import NAMES
    from mangalib.incidents import described

    click.secho(found.sentence, bold=True)
    for finding in found.findings:
        click.echo(f"  {NAMES[finding.severity]}  {finding.intent:16}{finding.metric:16}{finding.reason}")
    for line in found.improved:
        click.echo(f"  better  {line}")
    for row in found.comparison.dropna().itertuples():
        click.echo(
            f"  {row.intent:16}{row.metric:15} p50 {row.p50:6.0f} ms ({row.p50_shift_ms:+.0f} ms, {row.p50_shift:+.0%})"
            f"  p95 {row.p95:6.0f} ms ({row.p95_shift_ms:+.0f} ms, {row.p95_shift:+.0%}, "
            f"{row.p95_shift_low:+.0%} to {row.p95_shift_high:+.0%})  slower with {row.probability_slower:.0%}"
        )
    for note in found.notes:
        click.echo(f"  note: {note}")
    for incident in incidents:
        click.echo(f"  incident: {described(incident)}")
