"""One name, one thing: what the glossary replaced is used nowhere any more."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
READ = (
    "*.py",
    "*.pyi",
    "*.md",
    "*.js",
    "*.css",
    "*.html",
    "*.j2",
    "*.yaml",
    "*.yml",
    "*.toml",
    "*.ipynb",
    "Containerfile*",
)
FOLDERS = ("mangalib", "tests", "benchmarks", "tools", "docs", "notebooks", "data", "deploy")
# The change log says what things were called.
LEFT_OUT = {Path(__file__).resolve(), PROJECT / "CHANGELOG.md"}

# Names of the code, as they are written there; then words in any case. Only what has no ordinary meaning in this project.
NAMES = [
    *("Kitchen", "Recipe", "Ahead", "Asked", "Joined", "Purse", "Allowance", "Framing", "Delivery", "StreamMachine"),
    *("ANOTHERS", "turn_to", "may_leave", "let_in", "read_along", "Flight", "_fly"),
]
WORDS = [
    "kitchens?",
    "recipes?",
    "purses?",
    "allowances?",
    "framing",
    "foretold",
    "foretell",
    "cr(y|ies|ied) wolf",
    "likelier",
    "made-up",
    "programmes?",
    "wander(s|ed|ing)?",
    "luck(y|ily)?",
    "nobody asked for",
    "it said nothing",
    "neighbouring letters",
    "troubled",
    "flights",
    "earn(s|ed|ing)?",
    "doubt(s|ed|ful)?",
    "mend(s|ed|ing)?",
    "study",
    "makers?",
    "whoever",
    "spread",
]
_PATTERN = re.compile(
    "|".join([rf"(?<![A-Za-z]){name}(?![a-z])" for name in NAMES] + [rf"(?i:\b{word}\b)" for word in WORDS])
)


def documents() -> list[Path]:
    inside = [path for folder in FOLDERS for kind in READ for path in (PROJECT / folder).rglob(kind)]
    own = [path for path in [*PROJECT.glob("*.md"), *PROJECT.glob("*.toml"), PROJECT / "Makefile", *inside]]
    return sorted(path for path in own if path not in LEFT_OUT and "share" not in path.parts)


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(PROJECT)))
def test_only_the_words_of_the_glossary_are_used(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [f"{number}: {hit[0]}" for number, line in enumerate(lines, 1) if (hit := _PATTERN.search(line))]
    assert not found


def test_the_pattern_finds_what_it_is_for() -> None:
    assert _PATTERN.search("from mangalib.x import Kitchen")
    assert _PATTERN.search("the programme's Purse")
    assert _PATTERN.search("flights: SingleFlight")
    assert not _PATTERN.search("a program's token budget, asked for ahead")
    assert not _PATTERN.search("SingleFlight, one post in flight, 06_detector_study")


def test_each_name_in_the_glossary_is_a_class() -> None:
    glossary = (PROJECT / "docs" / "glossary.md").read_text(encoding="utf-8")
    names = set(re.findall(r"^\| ([A-Z][a-z]+[A-Za-z]+) \|", glossary, re.MULTILINE))
    code = "\n".join(path.read_text(encoding="utf-8") for path in (PROJECT / "mangalib").rglob("*.py"))
    assert len(names) > 20
    assert [name for name in sorted(names) if not re.search(rf"^class {name}\b", code, re.MULTILINE)] == []
