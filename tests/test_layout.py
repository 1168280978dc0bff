"""Which way the arrows run, and what must stay equal."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[1]
ALLOWED = {
    "serving": {"serving", "settings", "errors"},
    "precompute": {"precompute", "serving", "settings", "errors", "atomic", "place", "cluster"},
    "server": {"precompute", "serving", "settings", "errors"},
    "local": {"local", "server", "precompute", "serving", "settings", "errors", "atomic"},
    "benchmark": {"benchmark", "serving", "settings", "errors", "atomic", "place", "cluster"},
    "lab": {"lab", "local", "benchmark", "precompute", "serving", "settings", "errors", "atomic", "place", "cluster"},
    "commands": {
        "commands",
        "cloud",
        "lab",
        "local",
        "benchmark",
        "precompute",
        "serving",
        "settings",
        "errors",
        "atomic",
        "place",
        "cluster",
    },
    "cli": {"commands", "lab", "local", "benchmark", "serving", "settings", "errors"},
    "settings": {"errors"},
    "errors": set(),
    "atomic": set(),
    "cloud": {"cloud", "serving", "settings", "errors"},
    "cluster": {"errors"},
    "place": {"settings", "errors", "atomic"},
    "__init__": set(),
}


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mangalib"):
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("mangalib.")}
    return found


@pytest.mark.parametrize(
    "path", sorted((PROJECT / "mangalib").rglob("*.py")), ids=lambda p: str(p.relative_to(PROJECT))
)
def test_imports_run_one_way(path: Path) -> None:
    parts = path.relative_to(PROJECT / "mangalib").parts
    room = parts[0].removesuffix(".py")
    assert imports_of(path) <= ALLOWED[room], f"{path.name} reaches into a room it should not know"


def test_conda_lists_what_pip_lists() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ours = {name.split("[")[0] for name in [*project["dependencies"], *project["optional-dependencies"]["dev"]]}
    conda = yaml.safe_load((PROJECT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    theirs = {name.split("=")[0].split(">")[0].strip() for name in conda if isinstance(name, str)}
    theirs |= {name.split("[")[0] for entry in conda if isinstance(entry, dict) for name in entry["pip"]}
    assert theirs - {"python", "redis-server", "pip"} == ours


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {
        name.split("[")[0].lower().replace("_", "-")
        for name in [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    }
    lines = (PROJECT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0] for line in lines if "==" in line}
    assert wanted <= pinned
    assert "rfc3987-syntax" not in pinned, "it costs every kernel 0.8 s, and nothing here uses it"
    assert not any("http:" in line or "https:" in line for line in lines)


def test_the_one_target_switch_is_in_one_place() -> None:
    """The product does not ask where it runs, but for how OpenSearch wants its requests signed."""
    asking = [
        path.name
        for path in [*(PROJECT / "mangalib").glob("*.py"), *(PROJECT / "mangalib" / "serving").glob("*.py")]
        if "settings.target" in path.read_text(encoding="utf-8")
    ]
    assert asking == ["server.py"]
