"""The HTML pages: the index of runs, and the report of an executed notebook."""

from __future__ import annotations

import nbformat

from mangalib.jobs.html import report_html
from mangalib.jobs.index_page import index_html, write_page
from mangalib.jobs.records import FAILED
from mangalib.jobs.runs import Runs
from tests.unit.jobs.conftest import NOW, AddRun


def test_the_index_page_names_failures_and_escapes_what_notebooks_wrote(runs: Runs, add_run: AddRun) -> None:
    add_run(days_ago=2)
    add_run(days_ago=1, status=FAILED)
    write_page(runs)
    page = runs.storage.read("index.html")
    assert "Failing now: 04_benchmark_run." in page
    assert "1 unacknowledged failures" in page
    assert "cell 3: boom &lt;b&gt;" in page
    assert "all &lt;i&gt;OK&lt;/i&gt;" in page
    assert "<script" not in page


def test_the_index_page_of_no_runs_says_so() -> None:
    assert index_html([], NOW).count("Nothing has run yet.") == 1


def test_a_report_shows_its_figures_and_fetches_nothing() -> None:
    figure = {"data": [{"type": "scatter", "y": [1, 2]}], "layout": {}}
    output = nbformat.v4.new_output("display_data", data={"application/vnd.plotly.v1+json": figure})
    cell = nbformat.v4.new_code_cell("figure", outputs=[output])
    page = report_html(nbformat.writes(nbformat.v4.new_notebook(cells=[cell])))
    assert "Plotly.newPlot" in page
    assert page.index("plotly.js v") < page.index("Plotly.newPlot("), "the library comes with the page"
    assert 'src="http' not in page
