"""`mangalib runs`: the runs as a table and as JSON, and acknowledging failures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from mangalib.jobs.parameters import Job
from mangalib.jobs.runs import Runs


def mangalib_runs(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mangalib.cli", "runs", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_runs_are_listed_as_a_table_and_as_json_and_failures_can_be_acknowledged(runs: Runs, tmp_path: Path) -> None:
    job = Job(tmp_path / "tiny.ipynb", {}, "tiny", timeout_s=60)
    ok = runs.finish(runs.begin(job), error=None, results={"headline": "all <i>OK</i>"}).name
    failed = runs.finish(runs.begin(job), error="cell 3: boom", results={}).name
    folder = ("--output-dir", str(tmp_path / "runs"))

    def listed(*options: str) -> list[str]:
        return [run["name"] for run in json.loads(mangalib_runs(*folder, "--json", *options).stdout)]

    table = mangalib_runs(*folder).stdout
    assert "all <i>OK</i>" in table
    assert "failed   !" in table
    assert "cell 3: boom" in table
    assert listed() == [failed, ok]
    assert listed("--failed") == [failed]
    assert listed("--failed", "--seen", failed) == []
    unknown = mangalib_runs(*folder, "--seen", "no/such")
    assert (unknown.returncode, unknown.stderr) == (1, "mangalib: no run 'no/such'; `mangalib runs` lists them\n")
