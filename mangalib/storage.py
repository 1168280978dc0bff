"""A folder on this machine or on S3, by its URL: what is written there is there whole or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow.fs as pafs

from mangalib.errors import DataError
from mangalib.settings import AwsSettings


def filesystem(url: str, settings: AwsSettings) -> tuple[pafs.FileSystem, str]:
    """The file system of ``url``, and its path there; raises ``DataError`` unless it is a folder or ``s3://bucket/prefix``."""
    if "://" not in url:
        return pafs.LocalFileSystem(), str(Path(url).expanduser().resolve())
    if urlsplit(url).scheme == "s3":
        endpoint = urlsplit(settings.aws_url) if settings.aws_url else None
        options = {"scheme": endpoint.scheme, "endpoint_override": endpoint.netloc} if endpoint else {}
        return pafs.S3FileSystem(region=settings.region, **options), url.removeprefix("s3://").rstrip("/")
    raise DataError(f"{url!r}: expected a folder or s3://bucket/prefix")


def write_atomically(path: Path, content: str) -> None:
    """Write a file so that a reader sees all of it or nothing; only its owner may read it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.touch(mode=0o600)
        partial.write_text(content, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class Storage:
    """Texts by name; a name has slashes between folders. Raises ``OSError`` as files do."""

    def __init__(self, url: str | Path, settings: AwsSettings) -> None:
        self._fs, self._base = filesystem(str(url), settings)
        self.local = isinstance(self._fs, pafs.LocalFileSystem)

    def url(self, name: str = "") -> str:
        """Where that is: a path on this machine, or ``s3://…``."""
        path = f"{self._base}/{name}" if name else self._base
        return path if self.local else f"s3://{path}"

    def make(self, folder: str) -> None:
        """See to it that a folder is there; S3 has none."""
        if self.local:
            Path(self.url(folder)).mkdir(parents=True, exist_ok=True)

    def read(self, name: str) -> str:
        """The text; raises ``FileNotFoundError``."""
        with self._fs.open_input_stream(f"{self._base}/{name}") as stream:
            return bytes(stream.read()).decode()

    def fetch(self, name: str, folder: Path) -> Path:
        """A file as one on this machine: itself, or a copy in ``folder``."""
        if self.local:
            return Path(self.url(name))
        copy = folder / name.rsplit("/", 1)[-1]
        with self._fs.open_input_stream(f"{self._base}/{name}") as stream, copy.open("wb") as file:
            shutil.copyfileobj(stream, file)
        return copy

    def write(self, name: str, text: str) -> None:
        """Write, or write anew."""
        if self.local:
            write_atomically(Path(self.url(name)), text)
        else:
            with self._fs.open_output_stream(f"{self._base}/{name}") as stream:
                stream.write(text.encode())

    def names(self, under: str = "") -> list[str]:
        """All that is there, in all folders below."""
        selector = pafs.FileSelector(f"{self._base}/{under}".rstrip("/"), recursive=True, allow_not_found=True)
        found = self._fs.get_file_info(selector)
        start = len(self._base) + 1
        return sorted(entry.path[start:] for entry in found if entry.type == pafs.FileType.File)

    def delete(self, name: str) -> None:
        """Take it away, if it is there."""
        if self._fs.get_file_info(f"{self._base}/{name}").type == pafs.FileType.File:
            self._fs.delete_file(f"{self._base}/{name}")
