"""What several machines share, on the local stack: leases in Redis and DynamoDB, runs on S3, load from many workers."""

from __future__ import annotations

import os
import signal
import threading
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import boto3
import pytest
import redis
from distributed import Client
from pydantic import SecretStr

from mangalib.aws.dynamodb import dynamodb_client
from mangalib.benchmark.load.distributed import run_distributed
from mangalib.benchmark.load.runner import Runner
from mangalib.benchmark.load.workload import make_workload
from mangalib.client import Client as ChatClient
from mangalib.errors import NotebookError
from mangalib.jobs.execute import run_job
from mangalib.jobs.index_page import write_page
from mangalib.jobs.leases import Leases, RedisLeases, ScheduleCursor, TableLeases, keep_renewed
from mangalib.jobs.orphans import reap_orphans
from mangalib.jobs.parameters import job_of
from mangalib.jobs.records import RUNNING
from mangalib.jobs.runs import Runs, open_runs
from mangalib.jobs.schedule import Entry, Schedule
from mangalib.jobs.scheduler import Scheduler
from mangalib.local.stack import Stack
from mangalib.precompute.prediction.distributed import train_partitioned
from mangalib.precompute.prediction.session_log import SessionLog
from mangalib.precompute.prediction.training import train_on_log
from mangalib.settings import Settings
from tests.integration.jobs.conftest import SimulatedClock
from tests.small_notebooks import write_notebook

LEASE_S = 1.0


@pytest.fixture
def cloud(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in ("aws_access_key_id", "aws_secret_access_key"):
        monkeypatch.setenv(name.upper(), stack.addresses[name])
    monkeypatch.setenv("AWS_DEFAULT_REGION", stack.settings.region)
    return stack.settings


@pytest.fixture(params=["redis", "dynamodb"])
def shared(request: pytest.FixtureRequest, stack: Stack, cloud: Settings) -> Leases:
    if request.param == "redis":
        return RedisLeases(redis.Redis.from_url(stack.addresses["redis_url"]), LEASE_S)
    return TableLeases(dynamodb_client(cloud), cloud.jobs_table, LEASE_S)


def test_a_lease_is_exclusive_until_released_and_hands_on_the_schedule_cursor(shared: Leases) -> None:
    mine = shared.take("nightly")
    assert mine is not None
    assert shared.take("nightly") is None
    assert shared.take("another") is not None
    mine.write(ScheduleCursor("2026-11-01T00:00:00+00:00", 1))
    mine.release()
    following = shared.take("nightly")
    assert following is not None
    assert following.cursor == shared.cursor("nightly") == ScheduleCursor("2026-11-01T00:00:00+00:00", 1)
    following.release()


def test_a_lease_is_renewed_while_its_owner_lives_and_expires_when_it_dies(shared: Leases) -> None:
    mine = shared.take("renewed")
    assert mine is not None
    with keep_renewed(mine, LEASE_S) as lost:
        assert not lost.wait(2.5 * LEASE_S), "renewed"
        assert shared.take("renewed") is None
    dead = shared.take("renewed")
    assert dead is not None
    deadline_s = time.monotonic() + 10
    while (next_one := shared.take("renewed")) is None:
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    with pytest.raises(NotebookError, match="the lease has expired"):
        dead.write(ScheduleCursor("2026-11-01T00:00:00+00:00", 1))
    with keep_renewed(dead, LEASE_S) as lost:
        assert lost.wait(5), "an owner that comes back notices that it lost the lease"
    next_one.write(ScheduleCursor("2026-11-01T00:15:00+00:00"))
    next_one.release()


def test_of_many_concurrent_callers_one_takes_the_lease(shared: Leases) -> None:
    taken = []
    threads = [threading.Thread(target=lambda: taken.append(shared.take("crowd"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(lease is not None for lease in taken) == 1


def test_notebook_record_report_and_index_are_written_to_s3(stack: Stack, cloud: Settings, tiny: Path) -> None:
    s3 = boto3.client("s3", endpoint_url=stack.addresses["aws_url"])
    s3.create_bucket(Bucket="manga-runs", CreateBucketConfiguration={"LocationConstraint": cloud.region})
    runs = open_runs("s3://manga-runs/lab", cloud)
    done = run_job(job_of(tiny, {"number": 5}, timeout_s=60, html=True), runs, cloud)
    assert done.ok, done.record.error
    again = Runs("s3://manga-runs/lab", runs.leases, cloud)
    (summary,) = again.index()
    assert (summary.name, summary.headline, summary.status) == (done.name, "number 5", "ok")
    assert '"number": 5' in again.storage.read(f"{done.name}.json")
    assert "injected-parameters" in again.storage.read(f"{done.name}.ipynb")
    write_page(again)
    keys = {entry["Key"] for entry in s3.list_objects_v2(Bucket="manga-runs")["Contents"]}
    assert keys == {f"lab/{done.name}{end}" for end in (".ipynb", ".json", ".html")} | {
        "lab/runs.json",
        "lab/index.html",
    }
    orphan = runs.begin(job_of(tiny, {}, timeout_s=60))
    assert [run.name for run in reap_orphans(again)] == [orphan.name]
    assert RUNNING not in {run.status for run in again.index()}


def test_transition_counts_of_a_partitioned_log_on_s3(
    stack: Stack, cloud: Settings, two_workers: Client, tmp_path: Path
) -> None:
    s3 = boto3.client("s3", endpoint_url=stack.addresses["aws_url"])
    s3.create_bucket(Bucket="manga-logs", CreateBucketConfiguration={"LocationConstraint": cloud.region})
    lines = (cloud.data_dir / "example_sessions.csv").read_text(encoding="utf-8").splitlines()
    for number in range(4):
        part = [lines[0], *lines[1 + number :: 4]]
        s3.put_object(Bucket="manga-logs", Key=f"2026/part-{number}.csv", Body="\n".join(part).encode())
    model = train_partitioned(two_workers, "s3://manga-logs/2026", cloud, progress=False)
    log = SessionLog(cloud.data_dir / "example_sessions.csv", cloud.session_events_max)
    assert model.transitions == train_on_log(log, order=cloud.transition_order, half_life_days=60).transitions


def test_a_failing_job_is_one_incident_and_is_resolved_when_it_succeeds(
    stack: Stack, cloud: Settings, tmp_path: Path
) -> None:
    """At its three due times it fails twice, then succeeds."""
    flag = tmp_path / "flag"
    write_notebook(tmp_path / "tiny.ipynb", f"import pathlib\nassert pathlib.Path({str(flag)!r}).exists(), 'not yet'")
    entry = Entry(name="pages", notebook="tiny", cron="0 * * * *", on_failure="page")
    settings = cloud.model_copy(
        update={
            "pagerduty_url": stack.addresses["pagerduty_url"],
            "pagerduty_routing_key": SecretStr(stack.addresses["pagerduty_routing_key"]),
        }
    )
    clock = SimulatedClock(datetime(2026, 11, 2, 0, 30, tzinfo=UTC))
    schedule = Schedule([entry], tmp_path / "schedule.yaml", settings)
    scheduler = Scheduler(
        schedule, open_runs(tmp_path / "runs", settings), settings, clock=clock, on_finished=lambda run: None
    )
    for succeeds in (False, False, True):
        if succeeds:
            flag.touch()
        (run,) = scheduler.run_due(also_new=True)
        assert run.ok is succeeds
        clock.at += timedelta(hours=1)
    events = [e for e in stack.local("pagerduty", "GET", "events") if e["dedup_key"].endswith("job-pages")]
    assert [event["event_action"] for event in events] == ["trigger", "trigger", "resolve"]
    assert len({event["dedup_key"] for event in events}) == 1, "one incident"
    assert "scheduled job pages failed: cell 2: AssertionError: not yet" in events[0]["payload"]["summary"]


async def test_load_is_distributed_and_a_killed_worker_loses_only_questions_it_had_not_asked(
    two_workers: Client, stack: Stack
) -> None:
    settings = stack.settings
    workload = make_workload(settings, per_intent=4, seed=1, production=None, rate_per_s=8)
    address, token = stack.addresses["websocket_url"], stack.addresses["token"]
    connect = partial(ChatClient, address, token, settings=settings)
    complete = Runner(connect, workload, settings, progress=False)
    clocks = await run_distributed(two_workers, complete, connect, workload, settings, progress=False)
    assert len(clocks) == 2
    assert all(clock.within_s < 1 for clock in clocks.values())
    samples = complete.samples()
    assert len(samples) == complete.planned
    assert samples["run_id"].nunique() == 1
    assert not samples[["intent", "sequence"]].duplicated().any()
    assert samples["at"].is_monotonic_increasing

    victim = next(iter(two_workers.run(os.getpid).values()))
    # The first question is 3 s and a connection away, the last one 4 s after it.
    killer = threading.Timer(3 + settings.connect_ahead_s + 2, lambda: os.kill(victim, signal.SIGKILL))
    killer.start()
    incomplete = Runner(connect, workload, settings, progress=False)
    await run_distributed(two_workers, incomplete, connect, workload, settings, progress=False)
    killer.join()
    half = incomplete.planned // 2
    assert half - 1 <= len(incomplete.outcomes) <= incomplete.planned
    assert not incomplete.samples()[["intent", "sequence"]].duplicated().any(), "nothing was asked twice"
