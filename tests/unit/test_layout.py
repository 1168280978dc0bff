"""The layout of the packages: which may import which, and what each offers to the others."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]
ROOT = PROJECT / "mangalib"

# Each package, and the packages that it may import from; every package may import errors, settings and extras.
BASE = {"errors", "settings", "extras"}
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "extras": set(),
    "settings": set(),
    "storage": set(),
    "cluster": set(),
    "domain": set(),
    "protocol": {"domain"},
    "resilience": set(),
    "nlu": {"domain"},
    "aws": {"resilience"},
    "serving": {"domain", "protocol", "resilience", "nlu", "aws"},
    "precompute": {"storage", "cluster", "domain", "resilience", "nlu", "aws", "serving"},
    "client": {"domain", "protocol", "resilience"},
    "benchmark": {"storage", "cluster", "domain", "protocol", "client"},
    "incidents": {"domain", "aws", "benchmark"},
    "jobs": {"storage", "cluster", "resilience", "aws", "benchmark", "incidents"},
    "chat": {"domain", "protocol", "client"},
    "server": {"domain", "resilience", "nlu", "aws", "serving", "precompute"},
    "local": {"storage", "domain", "resilience", "nlu", "aws", "serving", "precompute", "chat"},
    "cloud": {"aws"},
    "lab": {
        "storage",
        "cluster",
        "domain",
        "protocol",
        "nlu",
        "aws",
        "serving",
        "precompute",
        "client",
        "benchmark",
        "incidents",
        "jobs",
        "chat",
        "local",
    },
}
ARROWS["commands"] = set(ARROWS) - {"server"}
ARROWS["cli"] = {"commands", "client", "protocol"}
ARROWS["__init__"] = set()


def modules(folder: Path = ROOT) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def package_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports_of(path: Path) -> list[str]:
    """Dotted names of what a file imports from mangalib: modules, and names taken from packages."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "mangalib":
            found += [node.module] if node.module != "mangalib" else [f"mangalib.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.startswith("mangalib.")]
    return found


def is_package(dotted: str) -> bool:
    return (PROJECT / dotted.replace(".", "/")).is_dir()


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_arrows_run_one_way(path: Path) -> None:
    package = package_of(path)
    packages = {name.split(".")[1] for name in imports_of(path)} - {package}
    assert packages <= ARROWS[package] | BASE, (
        f"{package} must not import from {sorted(packages - ARROWS[package] - BASE)}"
    )


def test_arrows_form_no_cycle() -> None:
    left = dict(ARROWS)
    while left:
        free = [package for package, below in left.items() if not below & set(left)]
        assert free, f"a circle among {sorted(left)}"
        for package in free:
            del left[package]


def below(package: str) -> set[str]:
    """All packages that can be reached from one along the arrows."""
    return set(ARROWS[package]).union(*(below(other) for other in ARROWS[package]))


def test_the_picture_of_the_architecture_shows_these_arrows() -> None:
    """All but those that follow from others; errors, settings and extras, which every package may import, are left out."""
    text = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")
    picture = text.split("```mermaid")[2].split("```")[0]
    drawn = set(re.findall(r"^ +(\w+) --> (\w+)$", picture, re.MULTILINE))
    arrows = {
        (package, other)
        for package, others in ARROWS.items()
        for other in others - BASE
        if not any(other in below(between) for between in others)
    }
    assert drawn == arrows


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_import_reaches_past_a_package(path: Path) -> None:
    package = package_of(path)
    past = [
        name
        for name in imports_of(path)
        if name.split(".")[1] != package and is_package(".".join(name.split(".")[:2])) and not is_package(name)
    ]
    assert not past, f"import these from the package, not from its modules: {past}"


@pytest.mark.parametrize(
    "folder", [p for p in sorted(ROOT.rglob("*/")) if (p / "__init__.py").is_file()], ids=lambda p: p.name
)
def test_each_package_names_what_others_may_import(folder: Path) -> None:
    package = importlib.import_module(".".join(folder.relative_to(PROJECT).parts))
    assert package.__doc__
    missing = [name for name in package.__all__ if not hasattr(package, name)]
    assert not missing
    modules_by_name = {path.stem for path in folder.glob("*.py")}
    hidden = [n for n in package.__all__ if n in modules_by_name and not inspect.ismodule(getattr(package, n))]
    assert not hidden, "once its module is imported, the package's attribute of that name is the module"


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return found


def test_a_conda_environment_holds_the_project_and_all_extras_but_dev() -> None:
    conda = yaml.safe_load((PROJECT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    by_pip = next(entry["pip"] for entry in conda if isinstance(entry, dict))
    extras = re.search(r"^-e \.\[(.*)\]$", by_pip[-1])
    assert extras is not None
    assert set(extras[1].split(",")) == set(project()["optional-dependencies"]) - {"dev"}


def test_every_dependency_is_pinned() -> None:
    named = [*project()["dependencies"], *chain(*project()["optional-dependencies"].values())]
    wanted = {re.split(r"\[|>|=|<", name)[0].lower().replace("_", "-") for name in named}
    lines = (PROJECT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0] for line in lines if "==" in line}
    assert wanted <= pinned
    assert "rfc3987-syntax" not in pinned, "it costs every kernel 0.8 s, and nothing here uses it"
    assert not any("http:" in line or "https:" in line for line in lines)


def test_the_one_target_switch_is_in_one_place() -> None:
    """The product does not ask where it runs, but for how OpenSearch wants its requests signed."""
    asking = [path.name for path in modules() if re.search(r"settings\.target\b", path.read_text(encoding="utf-8"))]
    assert asking == ["check.py", "server.py"]
