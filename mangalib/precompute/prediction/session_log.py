"""Session logs of any size, read in one pass: checked, repaired where that is safe, in batches of whole sessions.

A log is Parquet, CSV or JSON Lines with the columns ``session_id``, ``at`` and ``intent``, and optionally ``entity``.
DuckDB reads and sorts it, on disk where it does not fit into memory. Repairs are counted and reported.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mangalib.errors import DataError
from mangalib.precompute.prediction.transition_model import INTENTS_MAX

if TYPE_CHECKING:
    import duckdb
    import pandas as pd
    import pyarrow as pa

BATCH_ROWS = 1_000_000
_REQUIRED = ("session_id", "at", "intent")
_ZONE = r"(Z|[+-]\d\d:?(\d\d)?)$"
READERS = {
    ".parquet": "read_parquet",
    ".csv": "read_csv",
    ".gz": "read_csv",
    ".jsonl": "read_json",
    ".ndjson": "read_json",
    ".json": "read_json",
}


@dataclass
class Repairs:
    """How many rows of a log were repaired, by kind of repair."""

    rows: int = 0
    dropped_without_session_time_or_intent: int = 0
    taken_as_utc: int = 0
    put_in_order: int = 0
    dropped_duplicates: int = 0
    left_out_of_long_sessions: int = 0

    def as_text(self) -> str:
        """One readable line; empty when nothing was repaired."""
        done = [
            f"{name.replace('_', ' ')}: {count}" for name, count in asdict(self).items() if count and name != "rows"
        ]
        return f"of {self.rows} rows, " + ", ".join(done) if done else ""


@dataclass(frozen=True)
class Events:
    """Events of whole sessions, each session in order of time; all arrays of shape ``(n,)``.

    ``intent`` and ``entity`` are positions in the log's ``intents`` and ``entities``; an ``entity`` of -1 means none.
    """

    session: npt.NDArray[np.uint64]
    at_us: npt.NDArray[np.int64]
    intent: npt.NDArray[np.int64]
    entity: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.session)

    def where(self, mask: npt.NDArray[np.bool_]) -> Events:
        """The events for which ``mask`` is true."""
        return Events(self.session[mask], self.at_us[mask], self.intent[mask], self.entity[mask])


@dataclass
class SessionLog:
    """Use as ``for events in SessionLog(path, session_events_max=200)``.

    ``intents``, ``entities`` and ``repairs`` are complete after the loop.
    """

    path: Path
    session_events_max: int
    intents: list[str] = field(default_factory=list)
    entities: list[str] = field(default_factory=list)
    repairs: Repairs = field(default_factory=Repairs)

    def __iter__(self) -> Iterator[Events]:
        """Batches of about a million rows; a session is never split.

        Raises ``DataError`` naming the column, the value and what was expected.
        """
        import duckdb  # a slow import that only reading a log needs

        self.intents.clear()
        self.entities.clear()
        self.repairs = Repairs()
        numbers: tuple[dict[str, int], dict[str, int]] = ({}, {})
        with tempfile.TemporaryDirectory(prefix="mangalib-log-") as spill, duckdb.connect() as database:
            database.execute("SET TimeZone = 'UTC'; SET memory_limit = '1GB'; SET threads = 2")
            database.execute(f"SET temp_directory = '{spill}'")
            yield from self._batches(database, numbers)
        if not self.repairs.rows:
            raise DataError(f"{self.path}: empty; expected at least one row")

    def read_all(self) -> Events:
        """The whole log in memory, about 32 bytes a row."""
        parts = list(self)
        return Events(*(np.concatenate([getattr(part, name) for part in parts]) for name in _FIELDS))

    def _batches(self, database: duckdb.DuckDBPyConnection, numbers: tuple[dict[str, int], ...]) -> Iterator[Events]:
        rest: Events | None = None
        rest_row = np.empty(0, np.int64)
        for batch in self._sorted(database):
            events, row = self._encoded(batch, numbers)
            if rest is not None:
                events = Events(*(np.concatenate([getattr(rest, n), getattr(events, n)]) for n in _FIELDS))
                row = np.concatenate([rest_row, row])
            last_start = int(np.searchsorted(events.session, events.session[-1]))
            complete = np.arange(len(events)) < last_start
            # The last session may continue in the next batch; of one longer than a batch only the beginning is kept.
            rest, rest_row = events.where(~complete), row[~complete]
            if len(rest) > BATCH_ROWS:
                self.repairs.left_out_of_long_sessions += len(rest) - BATCH_ROWS
                rest, rest_row = rest.where(np.arange(len(rest)) < BATCH_ROWS), rest_row[:BATCH_ROWS]
            if last_start:
                yield self._repaired(events.where(complete), row[complete])
        if rest is not None:
            yield self._repaired(rest, rest_row)

    def sql_source(self, database: duckdb.DuckDBPyConnection) -> tuple[str, str, bool]:
        """The file as a source in SQL, the expression of a row's time, and whether there is a column ``entity``.

        Raises ``DataError`` for a wrong name, column or time, and ``duckdb.Error`` for a file that DuckDB does not read.
        """
        reader = READERS.get(self.path.suffix.lower())
        if reader is None:
            raise DataError(
                f"{self.path}: unknown file type; expected a name that ends in {', '.join(sorted(READERS))}"
            )
        if not self.path.is_file():
            raise DataError(f"{self.path}: no such file; expected a session log")
        source = f"{reader}('{str(self.path).replace(chr(39), chr(39) * 2)}')"
        found = database.sql(f"SELECT column_name, column_type FROM (DESCRIBE FROM {source})").fetchall()
        types = {str(name): str(kind) for name, kind in found}
        self._check_columns(types)
        return source, self._check_times(database, source, types["at"]), "entity" in types

    def _sorted(self, database: duckdb.DuckDBPyConnection) -> Iterator[pa.RecordBatch]:
        import duckdb

        try:
            source, at, has_entities = self.sql_source(database)
            entity = "NULLIF(CAST(entity AS VARCHAR), '')" if has_entities else "NULL"
            in_order = database.sql(
                f"""SELECT hash(CAST(session_id AS VARCHAR)) AS session, epoch_us({at}) AS at_us,
                       CAST(intent AS VARCHAR) AS intent, {entity} AS entity, row_number() OVER () AS row
                FROM {source} WHERE session_id IS NOT NULL AND {at} IS NOT NULL AND intent IS NOT NULL
                ORDER BY session, at_us, row"""
            )
            yield from in_order.to_arrow_reader(BATCH_ROWS)
        except duckdb.Error as error:
            first_line = str(error).splitlines()[0]
            raise DataError(f"{self.path}: {first_line}") from None

    def _check_columns(self, types: dict[str, str]) -> None:
        missing = [name for name in _REQUIRED if name not in types]
        if missing:
            raise DataError(
                f"{self.path}: no column {', '.join(missing)}; it has {', '.join(types)}; "
                f"expected {', '.join(_REQUIRED)} and optionally entity, text, segment"
            )

    def _check_times(self, database: duckdb.DuckDBPyConnection, source: str, kind: str) -> str:
        """The SQL expression of a row's time; times without a time zone are taken as UTC and counted."""
        at = '"at"' if kind.startswith("TIMESTAMP") else 'TRY_CAST("at" AS TIMESTAMPTZ)'
        at = f"CASE WHEN isfinite({at}) THEN {at} END"  # SQL accepts infinity as a time
        naive = "false" if "TIME ZONE" in kind else "true"
        if kind == "VARCHAR":
            naive = f"""NOT regexp_matches("at", '{_ZONE}')"""
        rows, wrong, example, unzoned, dropped = self._one(
            database,
            f"""SELECT count(*), count(*) FILTER (WHERE "at" IS NOT NULL AND {at} IS NULL),
                   any_value(CAST("at" AS VARCHAR)) FILTER (WHERE "at" IS NOT NULL AND {at} IS NULL),
                   count(*) FILTER (WHERE {at} IS NOT NULL AND {naive}),
                   count(*) FILTER (WHERE session_id IS NULL OR "at" IS NULL OR intent IS NULL) FROM {source}""",
        )
        if wrong:
            raise DataError(f"{self.path}: at={example!r} in {wrong} of {rows} rows; expected a UTC time (ISO 8601)")
        self.repairs = Repairs(rows, dropped, unzoned)
        return at

    @staticmethod
    def _one(database: duckdb.DuckDBPyConnection, query: str) -> Any:
        return database.sql(query).fetchall()[0]

    def _encoded(
        self, batch: pa.RecordBatch, numbers: tuple[dict[str, int], ...]
    ) -> tuple[Events, npt.NDArray[np.int64]]:
        columns = {name: batch.column(name) for name in batch.schema.names}
        intent = _numbered(columns["intent"], numbers[0], self.intents)
        if len(self.intents) > INTENTS_MAX:
            raise DataError(f"{self.path}: more than {INTENTS_MAX} different intents; is intent a column of free text?")
        entity = _numbered(columns["entity"], numbers[1], self.entities)
        session = columns["session"].to_numpy(zero_copy_only=False)
        return Events(session, columns["at_us"].to_numpy(), intent, entity), columns["row"].to_numpy()

    def _repaired(self, events: Events, row: npt.NDArray[np.int64]) -> Events:
        """Without duplicates, and at most the first ``session_events_max`` events of each session."""
        same = events.session[1:] == events.session[:-1]
        self.repairs.put_in_order += int((same & (row[1:] < row[:-1])).sum())
        duplicate = same & (events.at_us[1:] == events.at_us[:-1])
        duplicate &= (events.intent[1:] == events.intent[:-1]) & (events.entity[1:] == events.entity[:-1])
        self.repairs.dropped_duplicates += int(duplicate.sum())
        events = events.where(np.concatenate([[True], ~duplicate]))
        excess = positions_in_session(events.session) >= self.session_events_max
        self.repairs.left_out_of_long_sessions += int(excess.sum())
        return events.where(~excess) if excess.any() else events


_FIELDS = ("session", "at_us", "intent", "entity")


def read_table(path: Path) -> pd.DataFrame:
    """A log as a table in order of time, with all its columns and ``at`` in UTC; for logs that fit into memory.

    Raises ``DataError`` as :class:`SessionLog` does.
    """
    import duckdb
    import pandas as pd

    log = SessionLog(path, session_events_max=1)
    with duckdb.connect() as database:
        database.execute("SET TimeZone = 'UTC'")
        source, at, _ = log.sql_source(database)
        table: pd.DataFrame = (
            database.sql(f'SELECT * REPLACE ({at} AS "at") FROM {source} ORDER BY "at"').to_arrow_table().to_pandas()
        )
    table["at"] = pd.to_datetime(table["at"], utc=True)
    return table


def positions_in_session(session: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Each row's position within its session, from 0: shape (rows,). The rows of a session are adjacent."""
    starts = np.concatenate([[True], session[1:] != session[:-1]])
    at = np.arange(len(session))
    return at - np.maximum.accumulate(np.where(starts, at, 0))


def _numbered(column: pa.Array, numbers: dict[str, int], names: list[str]) -> npt.NDArray[np.int64]:
    """Each value's position in ``names``, to which new values are appended; -1 for null."""
    encoded = column.dictionary_encode()
    position_of = np.empty(len(encoded.dictionary) + 1, np.int64)
    position_of[-1] = -1
    for position, name in enumerate(encoded.dictionary.to_pylist()):
        if name not in numbers:
            numbers[name] = len(names)
            names.append(name)
        position_of[position] = numbers[name]
    positions: npt.NDArray[np.int64] = position_of[
        encoded.indices.fill_null(len(position_of) - 1).to_numpy(zero_copy_only=False)
    ]
    return positions
