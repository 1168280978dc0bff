"""What an installation without an extra says where the extra is needed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mangalib.cluster import cluster
from mangalib.errors import SettingsError
from mangalib.extras import attach_stub


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    folder = tmp_path / "stubbed"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "__init__.pyi").write_text("from .heavy import name as name\nfrom .broken import other as other\n")
    (folder / "heavy.py").write_text("import not_installed\nname = 1\n")
    (folder / "broken.py").write_text("import mangalib.no_such_module\nother = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "stubbed"
    for module in [name for name in sys.modules if name.partition(".")[0] == "stubbed"]:
        del sys.modules[module]


def test_a_name_that_needs_an_extra_says_which(package: str, tmp_path: Path) -> None:
    load, _, names = attach_stub(package, str(tmp_path / package / "__init__.py"), extra="lab")
    assert names == ["name", "other"]
    with pytest.raises(
        SettingsError, match=r"^stubbed needs not_installed, which is not installed: install mangalib\[lab\]$"
    ):
        load("name")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        load("other")


def test_a_cluster_without_dask_says_which_extra_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(SettingsError, match=r"distributed, which is not installed: install mangalib\[cluster\]"),
        cluster(None),
    ):
        pass
