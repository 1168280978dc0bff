"""Installed from a wheel, outside a checkout, the package has its data and notebooks with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
BUILT_FROM = ("mangalib", "data", "notebooks", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's content; its dependencies are those of this environment."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in BUILT_FROM:
        if (PROJECT / name).is_dir():
            shutil.copytree(PROJECT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(PROJECT / name, source / name)
    # The build's own dependency, setuptools, is installed already: nothing is fetched.
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--target", str(site), str(source)], check=True, timeout=120)
    return site


def run(installed: Path, folder: Path, *command: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_settings_find_data_and_notebooks_in_the_package(installed: Path, tmp_path: Path) -> None:
    code = (
        "import mangalib; settings = mangalib.load_settings();"
        "print(mangalib.__file__, settings.data_dir, settings.notebooks_dir)"
    )
    where = run(installed, tmp_path, "-c", code).split()
    assert where == [str(installed / "mangalib" / part) for part in ("__init__.py", "share/data", "share/notebooks")]


def test_a_question_is_answered_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    assert "One Piece" in run(installed, tmp_path, "-m", "mangalib.cli", "ask", "Tell me about One Piece")


def test_everything_that_is_read_at_run_time_is_in_the_wheel(installed: Path) -> None:
    for name in ("mangalib", "data", "notebooks"):
        under = installed / "mangalib" / ("" if name == "mangalib" else f"share/{name}")
        files = [path.relative_to(PROJECT / name) for path in (PROJECT / name).rglob("*.*") if path.is_file()]
        files = [path for path in files if not {"__pycache__", ".ipynb_checkpoints"} & set(path.parts)]
        assert files
        assert [str(path) for path in files if not (under / path).is_file()] == []
