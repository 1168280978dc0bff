"""Files in a folder of this machine or under an ``s3://`` prefix; a reader sees a file completely written or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mangalib.errors import DataError
from mangalib.settings import AwsSettings

if TYPE_CHECKING:
    import pyarrow.fs as pafs


def filesystem(url: str, settings: AwsSettings) -> tuple[pafs.FileSystem, str]:
    """The file system of ``url``, and the path on it; raises ``DataError`` unless it is a folder or ``s3://bucket/prefix``."""
    import pyarrow.fs as pafs  # serving does without pyarrow

    if "://" not in url:
        return pafs.LocalFileSystem(), str(Path(url).expanduser().resolve())
    if urlsplit(url).scheme == "s3":
        endpoint = urlsplit(settings.aws_url) if settings.aws_url else None
        options = {"scheme": endpoint.scheme, "endpoint_override": endpoint.netloc} if endpoint else {}
        return pafs.S3FileSystem(region=settings.region, **options), url.removeprefix("s3://").rstrip("/")
    raise DataError(f"{url!r}: expected a folder or s3://bucket/prefix")


def write_atomically(path: Path, content: str | bytes, *, mode: int = 0o600) -> None:
    """Write a file under a temporary name and rename it; ``mode`` (less the umask) is by default for its owner only."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    data = content.encode() if isinstance(content, str) else content
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class Storage:
    """Text files by name; a name may contain slashes. Methods raise ``OSError`` as files do."""

    def __init__(self, url: str | Path, settings: AwsSettings) -> None:
        self._fs, self._base = filesystem(str(url), settings)
        self.local = "://" not in str(url)

    def url(self, name: str = "") -> str:
        """The path of a file on this machine, or its ``s3://`` URL."""
        path = f"{self._base}/{name}" if name else self._base
        return path if self.local else f"s3://{path}"

    def create_folder(self, folder: str) -> None:
        """Create a folder and its parents; does nothing on S3, which has no folders."""
        if self.local:
            Path(self.url(folder)).mkdir(parents=True, exist_ok=True)

    def read(self, name: str) -> str:
        """The text of a file; raises ``FileNotFoundError``."""
        with self._fs.open_input_stream(f"{self._base}/{name}") as stream:
            return bytes(stream.read()).decode()

    def fetch(self, name: str, folder: Path) -> Path:
        """A local path of a file: its own, or that of a copy in ``folder``."""
        if self.local:
            return Path(self.url(name))
        copy = folder / name.rsplit("/", 1)[-1]
        with self._fs.open_input_stream(f"{self._base}/{name}") as stream, copy.open("wb") as file:
            shutil.copyfileobj(stream, file)
        return copy

    def write(self, name: str, text: str) -> None:
        """Create or replace a file."""
        if self.local:
            write_atomically(Path(self.url(name)), text)
        else:
            # An S3 object becomes visible when its upload is complete.
            with self._fs.open_output_stream(f"{self._base}/{name}") as stream:
                stream.write(text.encode())

    def names(self, under: str = "") -> list[str]:
        """The sorted names of all files in the folder ``under`` and below it."""
        from pyarrow.fs import FileSelector

        selector = FileSelector(f"{self._base}/{under}".rstrip("/"), recursive=True, allow_not_found=True)
        found = self._fs.get_file_info(selector)
        start = len(self._base) + 1
        return sorted(entry.path[start:] for entry in found if entry.is_file)

    def delete(self, name: str) -> None:
        """Delete a file if it exists."""
        if self._fs.get_file_info(f"{self._base}/{name}").is_file:
            self._fs.delete_file(f"{self._base}/{name}")
