"""A job's notebook, parameters and name are checked before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from mangalib.errors import NotebookError
from mangalib.jobs.parameters import find_notebooks, job_of
from mangalib.settings import Settings, load_settings


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"numbr": 3}, "no parameter 'numbr'; it has: number=1"),
        ({"number": "3"}, "number='3' of tiny: expected int"),
        ({"number": True}, "expected int"),
    ],
)
def test_a_parameter_must_be_one_of_the_notebook_and_of_its_type(
    parameters: dict[str, object], message: str, tiny: Path
) -> None:
    with pytest.raises(NotebookError, match=message):
        job_of(tiny, parameters, timeout_s=60)


def test_a_job_without_a_name_is_named_after_its_notebook_and_parameters(tiny: Path) -> None:
    one, other = (job_of(tiny, {"number": number}, timeout_s=60).name for number in (1, 2))
    assert one.startswith("tiny-")
    assert one != other


def test_a_name_must_be_usable_as_the_name_of_a_file(tiny: Path) -> None:
    with pytest.raises(NotebookError, match=r"job '\.\./etc': expected up to 100 alphanumeric"):
        job_of(tiny, {}, timeout_s=60, name="../etc")


def test_notebooks_are_found_by_name_path_and_all(tmp_path: Path, tiny: Path) -> None:
    settings = load_settings(notebooks_dir=tmp_path)
    numbered = tiny.rename(tmp_path / "01_tiny.ipynb")
    for name in ("01_tiny", "01_tiny.ipynb", str(numbered), "all"):
        assert find_notebooks(name, settings) == [numbered]


def test_an_unknown_notebook_is_an_error_that_lists_the_known_ones(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(NotebookError, match=r"no notebook '99'; MANGA_NOTEBOOKS_DIR=.*01_streaming_walkthrough"):
        find_notebooks("99", settings)
    with pytest.raises(NotebookError, match=r"no notebook 'all'; MANGA_NOTEBOOKS_DIR=.*no notebooks"):
        find_notebooks("all", load_settings(notebooks_dir=tmp_path))
