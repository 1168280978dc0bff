"""The table of notebooks in notebooks/README.md has each notebook's own question and parameters."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from papermill.inspection import inspect_notebook

from mangalib.jobs import find_notebooks
from mangalib.settings import load_settings

NOTEBOOKS = find_notebooks("all", load_settings())


def row_of(notebook: Path) -> list[str]:
    lines = (notebook.parent / "README.md").read_text(encoding="utf-8").splitlines()
    (row,) = [line for line in lines if line.startswith(f"| [`{notebook.stem}`]")]
    return [cell.strip() for cell in row.strip("|").split("|")]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_row_of_a_notebook_has_its_question_and_parameters(notebook: Path) -> None:
    title = nbformat.read(notebook, as_version=4).cells[0].source.split("\n")[0]
    _, question, parameters, _ = row_of(notebook)
    assert f"# {question}" == title
    listed = re.findall(r"`(\w+)`", parameters)
    assert listed == list(inspect_notebook(str(notebook)))
