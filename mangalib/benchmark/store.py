"""The benchmark store: Parquet files by date, one per run, in a local folder or on S3.

Files are written atomically and never changed. Past days are compacted into one file: it is written before the old ones are
deleted, and a run that is in two files in between is read once, so any number of machines may write, read and compact at the
same time.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from mangalib.errors import DataError
from mangalib.settings import StoreSettings
from mangalib.storage import filesystem, write_atomically

log = logging.getLogger(__name__)

# Arrow's own allocator does not return freed memory: reading a week would take a seventh more.
pa.set_memory_pool(pa.system_memory_pool())

_TIME = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("started_at", _TIME, nullable=False),
        pa.field("at", _TIME, nullable=False),
        pa.field("sequence", pa.int32(), nullable=False),
        pa.field("intent", pa.string(), nullable=False),
        pa.field("model_id", pa.string()),
        pa.field("source", pa.string()),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("first_token_ms", pa.float64()),
        pa.field("total_ms", pa.float64()),
        pa.field("tokens", pa.int32()),
        pa.field("ok", pa.bool_(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("warmup", pa.bool_(), nullable=False),
    ]
)
_NOT_NULL = [column.name for column in SCHEMA if not column.nullable]
_STRINGS = [column.name for column in SCHEMA if column.type == pa.string()]
_PARTITION = re.compile(r"date=(\d{4}-\d{2}-\d{2})")
_LISTINGS = 50
_READERS = 4


@dataclass
class Loaded:
    """Samples in the store's columns, the oldest run first, and the names of files that could not be read."""

    samples: pd.DataFrame
    unreadable: list[str] = field(default_factory=list)


class Store:
    """A store at a URL: a folder's path or ``s3://bucket/prefix``."""

    def __init__(self, url: str, settings: StoreSettings) -> None:
        self.url = url
        self._look_back_days = settings.look_back_days
        self._fs, self._base = filesystem(url, settings)
        self._local = isinstance(self._fs, pafs.LocalFileSystem)

    def append(self, samples: pd.DataFrame) -> str:
        """Write one run and return its file. Raises ``DataError``, and writes nothing, when ``samples`` is not one run in the
        store's columns or the run is in the store already."""
        table = _table_of(samples)
        runs = samples[["run_id", "started_at"]].drop_duplicates()
        if len(runs) != 1:
            raise DataError(f"{len(runs)} runs; expected one: each has a file of its own")
        run_id, started = str(runs["run_id"].iloc[0]), pd.Timestamp(runs["started_at"].iloc[0])
        if not re.fullmatch(r"[\w.-]{1,100}", run_id):
            raise DataError(f"run_id {run_id!r}: expected up to 100 letters, digits, dots, dashes and underscores")
        return self._write(f"date={started:%Y-%m-%d}", f"run-{started:%H%M%S}-{run_id}.parquet", table, once=True)

    def load(self, begin: datetime, end: datetime, *, columns: Sequence[str] = SCHEMA.names) -> Loaded:
        """Runs that started from ``begin`` to ``end``, both included, with the given ``columns``.

        Raises ``DataError`` when a file lacks one of the columns, naming both. A file that is not Parquet, or is truncated, is
        left out and named in the result.
        """
        days = [begin.date() + timedelta(days=n) for n in range((end.date() - begin.date()).days + 1)]
        tables, unreadable = self._tables(days, columns)
        if not tables:
            return Loaded(_empty(), unreadable)
        combined = pa.concat_tables(tables).unify_dictionaries()
        inside = pa.compute.and_(
            pa.compute.greater_equal(combined["started_at"], pa.scalar(begin, _TIME)),
            pa.compute.less_equal(combined["started_at"], pa.scalar(end, _TIME)),
        )
        samples = combined.filter(inside).to_pandas(self_destruct=True, split_blocks=True)
        order = samples[["started_at"]].assign(run=samples["run_id"].astype(str), n=samples["sequence"])
        if not order["started_at"].is_monotonic_increasing:
            samples = samples.loc[order.sort_values(["started_at", "run", "n"], kind="stable").index]
        return Loaded(samples.reset_index(drop=True), unreadable)

    def require_past(self, now: datetime, tolerance_s: float) -> None:
        """Raise ``DataError`` when the newest run is in the future: this machine's clock is wrong, or that of the machine that
        recorded the run was."""
        newest = self.newest()
        if newest is not None and newest[1] > now + timedelta(seconds=tolerance_s):
            raise DataError(
                f"the clock says {now:%Y-%m-%d %H:%M} UTC, and the store's newest run {newest[0]} is of "
                f"{newest[1]:%Y-%m-%d %H:%M}: correct the clock, or delete that run"
            )

    def newest(self) -> tuple[str, datetime] | None:
        """Id and start of the newest run, or ``None`` in an empty store."""
        for day in reversed(self._days()):
            found = self._runs_of(day)
            if found:
                return max(found, key=lambda run: (run[1], run[0]))
        return None

    def require_newest(self) -> tuple[str, datetime]:
        """Id and start of the newest run; raises ``DataError`` in an empty store."""
        newest = self.newest()
        if newest is None:
            raise DataError(f"the store {self.url} is empty; `mangalib benchmark` adds a run")
        return newest

    def started_at(self, run_id: str) -> datetime:
        """When a run started; raises ``DataError`` naming the newest runs when there is no such run."""
        known: list[tuple[str, datetime]] = []
        for day in reversed(self._days()):
            for known_id, started in self._runs_of(day):
                if known_id == run_id:
                    return started
                known.append((known_id, started))
        newest = ", ".join(name for name, _ in sorted(known, key=lambda run: run[1], reverse=True)[:3])
        raise DataError(f"no run {run_id!r} in {self.url}; the newest are: {newest or 'none, it is empty'}")

    def compact(self, today: date) -> int:
        """Compact each day before yesterday, as far as a verdict looks back, into one file; returns how many files were
        deleted."""
        deleted = 0
        for day in self._days():
            if today - timedelta(days=self._look_back_days + 2) <= day < today - timedelta(days=1):
                # Another machine may be compacting the same day; it, or the next run, completes that.
                with contextlib.suppress(FileNotFoundError):
                    deleted += self._compact_day(day)
        return deleted

    def _compact_day(self, day: date) -> int:
        files = self._files(day)
        if len(files) < 2:
            return 0
        tables = [table for table in (self._read(path, SCHEMA.names) for path in files) if table is not None]
        if len(tables) != len(files):
            return 0
        table = pa.concat_tables(_each_run_once(tables))
        names = sorted(str(name) for name in table["run_id"].unique().to_pylist())
        name = f"day-{hashlib.sha256(' '.join(names).encode()).hexdigest()[:16]}.parquet"
        written = self._write(f"date={day:%Y-%m-%d}", name, table.cast(SCHEMA), once=False)
        old = [path for path in files if path != written]
        for path in old:
            with contextlib.suppress(FileNotFoundError):
                self._fs.delete_file(path)
        return len(old)

    # Files

    def _write(self, folder: str, name: str, table: pa.Table, *, once: bool) -> str:
        path = f"{self._base}/{folder}/{name}"
        if once and self._fs.get_file_info(path).type != pafs.FileType.NotFound:
            raise DataError(f"{path}: exists already; a run is written only once")
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, compression="zstd")
        try:
            if self._local:
                self._fs.create_dir(f"{self._base}/{folder}", recursive=True)
                write_atomically(Path(path), buffer.getvalue().to_pybytes(), mode=0o666)
            else:
                # On S3 an object becomes visible when its upload is complete.
                with self._fs.open_output_stream(path) as stream:
                    stream.write(buffer.getvalue())
        except OSError as error:
            raise DataError(f"{path}: could not be written: {error}") from error
        return path

    def _days(self) -> list[date]:
        entries = self._listed(self._base)
        days = [match[1] for entry in entries if (match := _PARTITION.fullmatch(entry.base_name))]
        return sorted(date.fromisoformat(day) for day in days)

    def _files(self, day: date) -> list[str]:
        entries = self._listed(f"{self._base}/date={day:%Y-%m-%d}")
        names = [e.path for e in entries if e.type == pafs.FileType.File and e.base_name.endswith(".parquet")]
        return sorted(path for path in names if not path.rsplit("/", 1)[-1].startswith((".", "_")))

    def _listed(self, folder: str) -> list[pafs.FileInfo]:
        try:
            entries: list[pafs.FileInfo] = self._fs.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
        except OSError as error:
            raise DataError(f"store {self.url}: {error}") from error
        return entries

    def _tables(self, days: list[date], columns: Sequence[str]) -> tuple[list[pa.Table], list[str]]:
        for _ in range(_LISTINGS):
            files = [path for day in days for path in self._files(day)]
            # A file that has disappeared since the listing was compacted: a new listing has what replaced it.
            with contextlib.suppress(FileNotFoundError):
                with ThreadPoolExecutor(_READERS) as threads:
                    read = threads.map(lambda path: self._read(path, columns), files)
                    tables = list(zip(files, read, strict=True))
                unreadable = [path.rsplit("/", 1)[-1] for path, table in tables if table is None]
                return _each_run_once([table for _, table in tables if table is not None]), unreadable
        raise DataError(f"store {self.url}: its files changed {_LISTINGS} times while they were read; try again")

    def _read(self, path: str, columns: Sequence[str]) -> pa.Table | None:
        """The given columns of one file, or ``None`` when it is not a complete Parquet file."""
        try:
            with self._fs.open_input_file(path) as file:
                parquet = pq.ParquetFile(file, read_dictionary=_STRINGS)
                present = [name for name in columns if name in parquet.schema_arrow.names]
                table = parquet.read(columns=present)
        except pa.ArrowInvalid:
            log.warning("%s: not a complete Parquet file, left out", path)
            return None
        return _conforming(table, path, columns)

    def _runs_of(self, day: date) -> list[tuple[str, datetime]]:
        tables, _ = self._tables([day], ["run_id", "started_at"])
        runs = [
            table.select(["run_id", "started_at"]).group_by(["run_id", "started_at"]).aggregate([]) for table in tables
        ]
        return [(str(row["run_id"]), row["started_at"]) for table in runs for row in table.to_pylist()]


def _table_of(samples: pd.DataFrame) -> pa.Table:
    missing = [name for name in SCHEMA.names if name not in samples]
    if missing:
        raise DataError(f"column {missing[0]}: missing; expected {', '.join(SCHEMA.names)}")
    columns = []
    for column in SCHEMA:
        try:
            values = pa.Array.from_pandas(samples[column.name])
            columns.append(values.cast(column.type))
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise DataError(f"column {column.name}: expected {column.type}: {error}") from None
        if not column.nullable and columns[-1].null_count:
            raise DataError(f"column {column.name}: {columns[-1].null_count} values are missing; expected none")
    return pa.Table.from_arrays(columns, schema=SCHEMA)


_AS_READ = pa.schema(
    [(c.name, pa.dictionary(pa.int32(), pa.string()) if c.name in _STRINGS else c.type) for c in SCHEMA]
)


def _conforming(table: pa.Table, path: str, names: Sequence[str]) -> pa.Table:
    wanted = pa.schema([_AS_READ.field(name) for name in names])
    as_written = table.schema.names == wanted.names and table.schema.types == wanted.types
    if as_written and not any(table[name].null_count for name in names if name in _NOT_NULL):
        return pa.Table.from_arrays(table.columns, schema=wanted)
    columns = []
    for column in (SCHEMA.field(name) for name in names):
        if column.name not in table.column_names:
            raise DataError(f"{path}: column {column.name} is missing; expected {', '.join(SCHEMA.names)}")
        values = table[column.name]
        try:
            if _kind(values.type) != _kind(column.type) and not pa.types.is_null(values.type):
                raise pa.ArrowTypeError(str(values.type))
            if column.name in _STRINGS and not pa.types.is_dictionary(values.type):
                values = values.cast(pa.string()).dictionary_encode()
            columns.append(values.cast(wanted.field(column.name).type))
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
            raise DataError(f"{path}: column {column.name} is {values.type}; expected {column.type}") from None
        if column.name in _NOT_NULL and columns[-1].null_count:
            raise DataError(f"{path}: column {column.name} has {columns[-1].null_count} missing values; expected none")
    return pa.Table.from_arrays(columns, schema=wanted)


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_timestamp(kind):
        return "UTC time" if kind.tz is not None else "time without zone"
    for name in ("boolean", "integer", "floating", "string", "large_string"):
        if getattr(pa.types, f"is_{name}")(kind):
            return {"large_string": "string", "integer": "number", "floating": "number"}.get(name, name)
    return str(kind)


def _each_run_once(tables: list[pa.Table]) -> list[pa.Table]:
    """The tables without runs that an earlier table has already."""
    read: set[str] = set()
    kept = []
    for table in tables:
        runs = {str(name) for name in table["run_id"].unique().to_pylist()}
        if runs & read:
            again = pa.array(sorted(runs & read))
            table = table.filter(pa.compute.invert(pa.compute.is_in(table["run_id"].cast(pa.string()), again)))
        read |= runs
        kept.append(table)
    return kept


def _empty() -> pd.DataFrame:
    frame: pd.DataFrame = SCHEMA.empty_table().to_pandas()
    return frame


def days_before(moment: datetime, days: float) -> datetime:
    """``days`` before ``moment``, in UTC."""
    return moment.astimezone(UTC) - timedelta(days=days)


def iter_runs(samples: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """One table per run, the oldest first."""
    for _, run in samples.groupby(["started_at", "run_id"], sort=True, observed=True):
        yield run
