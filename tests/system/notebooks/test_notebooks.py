"""The notebooks, headless, with other parameters and from another folder; and the form of the committed ones."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nbformat
import pytest

from mangalib.jobs import find_notebooks, job_of, open_runs, run_job
from mangalib.local.stack import Stack
from mangalib.settings import load_settings

MAX_BYTES = 500 * 1024


@pytest.fixture(autouse=True)
def _against_the_running_stack(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANGA_WEBSOCKET_URL", stack.addresses["websocket_url"])
    monkeypatch.setenv("MANGA_TOKEN", stack.addresses["token"])


def test_the_walkthrough_runs_with_other_questions_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings()
    runs = open_runs(tmp_path / "runs", settings)
    parameters = {"simple_question": "こんにちは", "retrieval_question": "Compare Naruto and Bleach"}
    walkthrough = job_of(find_notebooks("01_streaming_walkthrough", settings)[0], parameters, timeout_s=200, html=True)
    run = run_job(walkthrough, runs, settings)
    assert run.ok, run.record.error
    record = json.loads(runs.storage.read(f"{run.name}.json"))
    assert record["parameters"] == parameters
    assert record["results"]["same_text"] is True
    assert record["results"]["frames"] > 5
    assert record["started_at"] < record["finished_at"]
    executed = runs.storage.read(f"{run.name}.ipynb")
    assert os.environ["MANGA_TOKEN"] not in executed
    assert len(executed) < MAX_BYTES
    page = runs.storage.read(f"{run.name}.html")
    assert "Plotly.newPlot" in page
    assert 'src="http' not in page, "the page needs no network"


@pytest.mark.parametrize("path", find_notebooks("all", load_settings()), ids=lambda path: path.stem)
def test_a_committed_notebook_opens_with_a_question_and_keeps_no_varying_output(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")
    assert notebook.cells[0].source.split("\n")[0].endswith("?"), "it opens with its question"
    assert "parameters" in code[0].metadata.tags
    assert path.stat().st_size < MAX_BYTES
    for cell in code:
        assert len(cell.source.splitlines()) <= 30
        if "nbval-ignore-output" in cell.metadata.get("tags", []):
            assert cell.outputs == [], "outputs that vary are not committed"
    assert "record(" in code[-1].source
    named = (load_settings().notebooks_dir / "README.md").read_text(encoding="utf-8")
    assert path.stem in named
