"""The index of runs: whole whatever happens, quick for many, told as a table and a page; and what retention takes."""

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
from mangalib.jobs.runs import FAILED, KILLED, OK, RUNNING, Record, Runs, headline_of
from mangalib.settings import Settings, load_settings

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def put(runs: Runs, *, days_ago: float, notebook: str = "04_benchmark_run", status: str = OK, **more: object) -> str:
    started = NOW - timedelta(days=days_ago)
    record = Record(
        notebook=notebook,
        parameters={},
        started_at=started.isoformat(),
        finished_at=None if status == RUNNING else (started + timedelta(seconds=42)).isoformat(),
        status=status,
        error="cell 3: boom <b>" if status == FAILED else None,
        results={"headline": "all <i>well</i>"},
        job=notebook,
    )
    name = f"{notebook}/{started:%Y-%m-%d}/{started:%H%M%S}-abcdef"
    runs.storage.make(name.rsplit("/", 1)[0])
    record = msgspec.structs.replace(record, **more)
    runs.storage.write(f"{name}.json", msgspec.json.encode(record).decode())
    for suffix in (".ipynb", ".html"):
        runs.storage.write(name + suffix, "{}")
    return name


def made_in(folder: Path, **settings: object) -> Runs:
    return Runs(folder, FileLeases(folder / ".leases"), load_settings(**settings))


def test_only_what_is_new_is_read_again(runs: Runs) -> None:
    names = [put(runs, days_ago=n / 96) for n in range(300)]
    assert [run.name for run in runs.index()] == names, "the newest first"
    runs.storage.write(f"{names[-1]}.json", "not JSON any more")
    put(runs, days_ago=0, notebook="other")
    lines = runs.index()
    assert len(lines) == 301
    assert {line.status for line in lines} == {OK}, "what is known is not read again"


def test_the_index_is_whole_whatever_happens_to_its_file(runs: Runs) -> None:
    put(runs, days_ago=1)
    runs.storage.write("runs.json", '{"half a fi')
    assert len(runs.index()) == 1
    Path(runs.storage.url("runs.json")).unlink()
    assert len(runs.index()) == 1


def test_a_record_that_cannot_be_read_is_a_failed_run_that_says_so(runs: Runs) -> None:
    name = put(runs, days_ago=1)
    runs.storage.write(f"{name}.json", '{"notebook": 3')
    (line,) = runs.index()
    assert line.status == FAILED
    assert "is not a record" in line.error


def test_a_run_that_goes_on_is_left_alone_and_one_that_was_killed_is_marked(runs: Runs) -> None:
    goes_on, killed = (
        put(runs, days_ago=0, notebook="a", status=RUNNING),
        put(runs, days_ago=0, notebook="b", status=RUNNING),
    )
    runs.storage.write(f"{killed}.ipynb", json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    lease = runs.leases.take("a")
    assert lease is not None
    assert [run.name for run in runs.reap_orphans()] == [killed]
    assert runs.record(killed).error == KILLED
    assert runs.record(goes_on).status == RUNNING
    lease.release()


def test_retention_takes_the_old_and_the_many_but_no_failure_that_nobody_saw(tmp_path: Path) -> None:
    runs = made_in(tmp_path, keep_runs_days=30, keep_runs=5)
    old = put(runs, days_ago=31)
    unseen = put(runs, days_ago=40, status=FAILED)
    seen = put(runs, days_ago=41, status=FAILED)
    many = [put(runs, days_ago=n) for n in range(8)]
    weekly = put(runs, days_ago=60, notebook="14_transition_model")
    runs.acknowledge([seen])
    gone = set(runs.prune(NOW))
    assert gone == {old, seen, *many[5:]}
    left = {line.name for line in runs.index()}
    assert left == {unseen, weekly, *many[:5]}
    assert not [name for name in runs.storage.names() if name.rsplit(".", 1)[0] in gone], (
        "notebook and report go with it"
    )
    runs.acknowledge([unseen])
    assert runs.prune(NOW) == [unseen]


def test_the_page_says_what_fails_and_is_safe_to_open(runs: Runs) -> None:
    put(runs, days_ago=2)
    put(runs, days_ago=1, status=FAILED)
    write_page(runs)
    page = runs.storage.read("index.html")
    assert "Failing now: 04_benchmark_run." in page
    assert "1 failures that nobody has looked at" in page
    assert "cell 3: boom &lt;b&gt;" in page
    assert "all &lt;i&gt;well&lt;/i&gt;" in page
    assert "<script" not in page
    assert index_html([], NOW).count("Nothing has run yet.") == 1


def test_the_table_can_be_read_by_people_and_programs(runs: Runs, tmp_path: Path) -> None:
    failed, fine = put(runs, days_ago=1, status=FAILED), put(runs, days_ago=2)

    def listed(*options: str) -> str:
        command = [sys.executable, "-m", "mangalib.cli", "runs", "--output-dir", str(tmp_path / "runs"), *options]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    table = listed()
    assert "all <i>well</i>" in table
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


def test_a_headline_is_what_the_notebook_says_else_its_first_results() -> None:
    assert headline_of({"headline": "three are slow", "n": 3}) == "three are slow"
    assert headline_of({"list": [1], "p50": 312.4567, "n": 3, "name": "x", "more": 1}) == "p50 312.5, n 3, name x"
    assert headline_of({}) == ""


def test_a_place_must_be_a_folder_or_on_s3(settings: Settings) -> None:
    from mangalib.errors import DataError

    with pytest.raises(DataError, match="expected a folder or s3://bucket/prefix"):
        Runs("ftp://somewhere", FileLeases(Path("/nowhere")), settings)
    with pytest.raises(NotebookError, match="expected up to 100 letters"):
        FileLeases(Path("/nowhere")).take("../etc")
