"""The notebooks, headless: other parameters, another folder, records, and what a failure leaves behind."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nbformat
import pytest

from mangalib.errors import NotebookError
from mangalib.lab import jobs
from mangalib.local.stack import Stack

MAX_BYTES = 500 * 1024


@pytest.fixture(autouse=True)
def _against_the_running_stack(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANGA_WEBSOCKET_URL", stack.addresses["websocket_url"])
    monkeypatch.setenv("MANGA_TOKEN", stack.addresses["token"])


def test_the_walkthrough_runs_with_other_questions_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = jobs.find_notebooks("01_streaming_walkthrough")[0]
    parameters = {"simple_question": "こんにちは", "retrieval_question": "Compare Naruto and Bleach"}
    run = jobs.run_notebook(source, parameters, tmp_path / "runs")
    assert run.ok, run.record["error"]
    record = json.loads(run.record_file.read_text(encoding="utf-8"))
    assert record["parameters"] == parameters
    assert record["results"]["same_text"] is True
    assert record["results"]["frames"] > 5
    assert record["started_at"] < record["finished_at"]
    executed = run.notebook.read_text(encoding="utf-8")
    assert os.environ["MANGA_TOKEN"] not in executed
    assert run.notebook.stat().st_size < MAX_BYTES
    page = jobs.write_html(run.notebook).read_text(encoding="utf-8")
    assert "Plotly.newPlot" in page
    assert 'src="http' not in page, "the page is whole without a network"


def test_a_cell_that_fails_keeps_what_ran_and_is_in_the_record(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell("times = 1", metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell("from mangalib.lab.record import record\nrecord(reached=times)\nprint('kept')"),
            nbformat.v4.new_code_cell("1 / 0"),
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    source = tmp_path / "failing.ipynb"
    nbformat.write(notebook, source)
    run = jobs.run_notebook(source, {"times": 3}, tmp_path / "runs")
    assert not run.ok
    assert "ZeroDivisionError" in run.record["error"]
    assert run.record["results"] == {"reached": 3}
    assert "kept" in run.notebook.read_text(encoding="utf-8")


def test_wrong_parameters_stop_before_anything_starts(tmp_path: Path) -> None:
    source = jobs.find_notebooks("02_first_token_budget")[0]
    for parameters, says in (({"sample": 3}, "it has: samples=5"), ({"samples": "3"}, "expected int")):
        with pytest.raises(NotebookError, match=says):
            jobs.run_notebook(source, parameters, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", jobs.find_notebooks("all"), ids=lambda path: path.stem)
def test_a_committed_notebook_is_made_for_reading(path: Path) -> None:
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
            assert cell.outputs == [], "what differs each time is not committed"
    assert "record(" in code[-1].source
    named = (jobs.NOTEBOOKS / "README.md").read_text(encoding="utf-8")
    assert path.stem in named
