"""The index of runs, orphans and retention."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mangalib.errors import DataError, NotebookError
from mangalib.jobs.leases import FileLeases
from mangalib.jobs.orphans import reap_orphans
from mangalib.jobs.parameters import job_of
from mangalib.jobs.records import FAILED, KILLED, OK, RUNNING, headline_of
from mangalib.jobs.retention import prune
from mangalib.jobs.runs import Runs
from mangalib.settings import Settings, load_settings
from tests.unit.jobs.conftest import NOW, AddRun


def test_only_new_records_are_read(runs: Runs, add_run: AddRun) -> None:
    names = [add_run(days_ago=n / 96) for n in range(300)]
    assert [run.name for run in runs.index()] == names, "the newest first"
    runs.storage.write(f"{names[-1]}.json", "not JSON any more")
    add_run(days_ago=0, notebook="other")
    summaries = runs.index()
    assert len(summaries) == 301
    assert {summary.status for summary in summaries} == {OK}, "the changed record was not read again"


def test_the_index_is_rebuilt_when_its_cache_is_damaged_or_missing(runs: Runs, add_run: AddRun) -> None:
    add_run(days_ago=1)
    runs.storage.write("runs.json", '{"half a fi')
    assert len(runs.index()) == 1
    Path(runs.storage.url("runs.json")).unlink()
    assert len(runs.index()) == 1


def test_an_unreadable_record_is_listed_as_a_failed_run(runs: Runs, add_run: AddRun) -> None:
    name = add_run(days_ago=1)
    runs.storage.write(f"{name}.json", '{"notebook": 3')
    (summary,) = runs.index()
    assert summary.status == FAILED
    assert "is not a record" in summary.error


def test_runs_are_kept_in_a_folder_or_on_s3(settings: Settings) -> None:
    with pytest.raises(DataError, match="expected a folder or s3://bucket/prefix"):
        Runs("ftp://somewhere", FileLeases(Path("/nowhere")), settings)


def test_a_run_that_cannot_be_recorded_where_it_belongs_is_recorded_in_the_temporary_folder(
    tiny: Path, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "a_file").write_text("not a folder")
    runs = Runs(tmp_path / "a_file", FileLeases(tmp_path / ".leases"), settings)
    with pytest.raises(
        NotebookError, match=r"a_file.*the record could not be written.*it is kept in .*tiny-name\.json"
    ):
        runs.begin(job_of(tiny, {}, timeout_s=60), name="tiny/name")
    assert json.loads((tmp_path / "mangalib-tiny-name.json").read_text())["status"] == FAILED


def test_orphans_are_marked_as_failed_and_runs_in_progress_are_not(runs: Runs, add_run: AddRun) -> None:
    in_progress = add_run(days_ago=0, notebook="a", status=RUNNING)
    killed = add_run(days_ago=0, notebook="b", status=RUNNING)
    notebook = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    runs.storage.write(f"{killed}.ipynb", json.dumps(notebook))
    lease = runs.leases.take("a")
    assert lease is not None
    assert [run.name for run in reap_orphans(runs)] == [killed]
    assert runs.read_record(killed).error == KILLED
    assert runs.read_record(killed).duration_s is None
    assert runs.read_record(in_progress).status == RUNNING
    lease.release()


def test_retention_deletes_by_age_and_count_but_no_unacknowledged_failure(runs: Runs, add_run: AddRun) -> None:
    retention = load_settings(keep_runs_days=30, keep_runs=5)
    old = add_run(days_ago=31)
    unacknowledged = add_run(days_ago=40, status=FAILED)
    acknowledged = add_run(days_ago=41, status=FAILED)
    many = [add_run(days_ago=n) for n in range(8)]
    newest_of_its_job = add_run(days_ago=60, notebook="14_transition_model")
    runs.acknowledge([acknowledged])
    deleted = set(prune(runs, retention, NOW))
    assert deleted == {old, acknowledged, *many[5:]}
    assert {summary.name for summary in runs.index()} == {unacknowledged, newest_of_its_job, *many[:5]}
    remaining = {name.rsplit(".", 1)[0] for name in runs.storage.names()}
    assert not remaining & deleted, "notebook and report are deleted with the record"
    runs.acknowledge([unacknowledged])
    assert prune(runs, retention, NOW) == [unacknowledged]


@pytest.mark.parametrize(
    ("results", "headline"),
    [
        ({"headline": "three are slow", "n": 3}, "three are slow"),
        ({"list": [1], "p50": 312.4567, "n": 3, "name": "x", "more": 1}, "p50 312.5, n 3, name x"),
        ({}, ""),
    ],
)
def test_a_headline_is_the_result_of_that_name_else_the_first_plain_results(
    results: dict[str, object], headline: str
) -> None:
    assert headline_of(results) == headline
