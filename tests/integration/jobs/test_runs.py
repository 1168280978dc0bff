"""The index of runs as data, table and page; orphans; and retention."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from mangalib.errors import NotebookError
from mangalib.jobs.index_page import index_html, write_page
from mangalib.jobs.leases import FileLeases
from mangalib.jobs.orphans import reap_orphans
from mangalib.jobs.parameters import job_of
from mangalib.jobs.records import FAILED, KILLED, OK, RUNNING, RunRecord, headline_of
from mangalib.jobs.retention import prune
from mangalib.jobs.runs import Runs
from mangalib.settings import Settings, load_settings

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def put(runs: Runs, *, days_ago: float, notebook: str = "04_benchmark_run", status: str = OK, **more: object) -> str:
    started = NOW - timedelta(days=days_ago)
    record = RunRecord(
        notebook=notebook,
        parameters={},
        started_at=started.isoformat(),
        finished_at=None if status == RUNNING else (started + timedelta(seconds=42)).isoformat(),
        status=status,
        error="cell 3: boom <b>" if status == FAILED else None,
        results={"headline": "all <i>OK</i>"},
        job=notebook,
    )
    name = f"{notebook}/{started:%Y-%m-%d}/{started:%H%M%S}-abcdef"
    runs.storage.make(name.rsplit("/", 1)[0])
    record = msgspec.structs.replace(record, **more)
    runs.storage.write(f"{name}.json", msgspec.json.encode(record).decode())
    for suffix in (".ipynb", ".html"):
        runs.storage.write(name + suffix, "{}")
    return name


def test_only_new_records_are_read(runs: Runs) -> None:
    names = [put(runs, days_ago=n / 96) for n in range(300)]
    assert [run.name for run in runs.index()] == names, "the newest first"
    runs.storage.write(f"{names[-1]}.json", "not JSON any more")
    put(runs, days_ago=0, notebook="other")
    summaries = runs.index()
    assert len(summaries) == 301
    assert {summary.status for summary in summaries} == {OK}, "the changed record was not read again"


def test_the_index_is_rebuilt_when_its_cache_is_damaged_or_missing(runs: Runs) -> None:
    put(runs, days_ago=1)
    runs.storage.write("runs.json", '{"half a fi')
    assert len(runs.index()) == 1
    Path(runs.storage.url("runs.json")).unlink()
    assert len(runs.index()) == 1


def test_an_unreadable_record_is_listed_as_a_failed_run(runs: Runs) -> None:
    name = put(runs, days_ago=1)
    runs.storage.write(f"{name}.json", '{"notebook": 3')
    (summary,) = runs.index()
    assert summary.status == FAILED
    assert "is not a record" in summary.error


def test_orphans_are_marked_as_failed_and_runs_in_progress_are_not(runs: Runs) -> None:
    in_progress, killed = (
        put(runs, days_ago=0, notebook="a", status=RUNNING),
        put(runs, days_ago=0, notebook="b", status=RUNNING),
    )
    runs.storage.write(f"{killed}.ipynb", json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    lease = runs.leases.take("a")
    assert lease is not None
    assert [run.name for run in reap_orphans(runs)] == [killed]
    assert runs.read_record(killed).error == KILLED
    assert runs.read_record(in_progress).status == RUNNING
    lease.release()


def test_retention_deletes_by_age_and_count_but_no_unacknowledged_failure(runs: Runs) -> None:
    retention = load_settings(keep_runs_days=30, keep_runs=5)
    old = put(runs, days_ago=31)
    unacknowledged = put(runs, days_ago=40, status=FAILED)
    acknowledged = put(runs, days_ago=41, status=FAILED)
    many = [put(runs, days_ago=n) for n in range(8)]
    weekly = put(runs, days_ago=60, notebook="14_transition_model")
    runs.acknowledge([acknowledged])
    gone = set(prune(runs, retention, NOW))
    assert gone == {old, acknowledged, *many[5:]}
    left = {summary.name for summary in runs.index()}
    assert left == {unacknowledged, weekly, *many[:5]}
    assert not [name for name in runs.storage.names() if name.rsplit(".", 1)[0] in gone], (
        "notebook and report are deleted with the record"
    )
    runs.acknowledge([unacknowledged])
    assert prune(runs, retention, NOW) == [unacknowledged]


def test_the_page_names_failures_and_escapes_what_notebooks_wrote(runs: Runs) -> None:
    put(runs, days_ago=2)
    put(runs, days_ago=1, status=FAILED)
    write_page(runs)
    page = runs.storage.read("index.html")
    assert "Failing now: 04_benchmark_run." in page
    assert "1 unacknowledged failures" in page
    assert "cell 3: boom &lt;b&gt;" in page
    assert "all &lt;i&gt;OK&lt;/i&gt;" in page
    assert "<script" not in page
    assert index_html([], NOW).count("Nothing has run yet.") == 1


def test_runs_are_listed_as_a_table_and_as_json(runs: Runs, tmp_path: Path) -> None:
    failed, fine = put(runs, days_ago=1, status=FAILED), put(runs, days_ago=2)

    def listed(*options: str) -> str:
        command = [sys.executable, "-m", "mangalib.cli", "runs", "--output-dir", str(tmp_path / "runs"), *options]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    table = listed()
    assert "all <i>OK</i>" in table
    assert "failed   !    42 s" in table
    assert [run["name"] for run in json.loads(listed("--json"))] == [failed, fine]
    assert [run["name"] for run in json.loads(listed("--json", "--failed"))] == [failed]
    assert json.loads(listed("--json", "--failed", "--seen", failed)) == []
    wrong = subprocess.run(
        [sys.executable, "-m", "mangalib.cli", "runs", "--output-dir", str(tmp_path / "runs"), "--seen", "no/such"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (wrong.returncode, wrong.stderr) == (1, "mangalib: no run 'no/such'; `mangalib runs` lists them\n")


def test_a_headline_is_the_result_of_that_name_else_the_first_plain_results() -> None:
    assert headline_of({"headline": "three are slow", "n": 3}) == "three are slow"
    assert headline_of({"list": [1], "p50": 312.4567, "n": 3, "name": "x", "more": 1}) == "p50 312.5, n 3, name x"
    assert headline_of({}) == ""


def test_runs_are_kept_in_a_folder_or_on_s3_under_names_of_files(tiny: Path, settings: Settings) -> None:
    from mangalib.errors import DataError

    with pytest.raises(DataError, match="expected a folder or s3://bucket/prefix"):
        Runs("ftp://somewhere", FileLeases(Path("/nowhere")), settings)
    with pytest.raises(NotebookError, match="expected up to 100 letters"):
        job_of(tiny, {}, timeout_s=60, name="../etc")
