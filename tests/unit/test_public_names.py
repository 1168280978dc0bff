"""``import mangalib``: few names, loaded when they are used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import mangalib

HEAVY = {"pandas", "plotly", "boto3", "botocore", "anywidget", "papermill", "pydantic", "sklearn", "moto"}


def test_the_public_names_are_few_and_listed() -> None:
    assert sorted(mangalib.__all__) == ["Chat", "Client", "Laboratory", "Settings", "load_settings", "record"]


@pytest.mark.parametrize("name", mangalib.__all__)
def test_each_public_name_loads_and_is_documented(name: str) -> None:
    assert getattr(mangalib, name).__doc__


def test_importing_mangalib_loads_no_heavy_library() -> None:
    program = "import sys, mangalib; print(*{name.partition('.')[0] for name in sys.modules})"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(run.stdout.split())
    assert "mangalib" in loaded
    assert not loaded & HEAVY
