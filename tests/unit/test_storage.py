"""Storage: files are written completely or not at all, and named relative to their folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from mangalib.errors import DataError
from mangalib.settings import AwsSettings
from mangalib.storage import Storage, filesystem, write_atomically


def test_a_file_is_replaced_at_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_atomically(path, "old")
    write_atomically(path, "new")
    assert path.read_text(encoding="utf-8") == "new"
    assert path.stat().st_mode & 0o077 == 0
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_file_and_leaves_no_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_atomically(path, b"old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "lone surrogate \ud800")
    with pytest.raises(TypeError):
        write_atomically(path, 5)  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "missing" / "record.json", "text")


def test_files_are_written_read_listed_and_deleted_by_name(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "runs", AwsSettings())
    assert storage.names() == []
    storage.create_folder("benchmark/day")
    storage.write("benchmark/day/b.json", "漫画")
    storage.write("benchmark/day/a.json", "{}")
    assert storage.names() == ["benchmark/day/a.json", "benchmark/day/b.json"]
    assert storage.names("benchmark/day") == storage.names()
    assert storage.read("benchmark/day/b.json") == "漫画"
    assert storage.fetch("benchmark/day/b.json", tmp_path) == Path(storage.url("benchmark/day/b.json"))
    storage.delete("benchmark/day/b.json")
    storage.delete("benchmark/day/b.json")
    assert storage.names() == ["benchmark/day/a.json"]
    with pytest.raises(FileNotFoundError):
        storage.read("benchmark/day/b.json")


def test_another_scheme_is_refused() -> None:
    with pytest.raises(DataError, match=r"'ftp://host/x': expected a folder or s3://bucket/prefix"):
        filesystem("ftp://host/x", AwsSettings())
