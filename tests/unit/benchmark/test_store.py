"""The store: complete files or none, each run once, and clear errors for invalid data."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mangalib.benchmark.experiments import synthetic_history
from mangalib.benchmark.experiments.synthetic_history import SyntheticHistory
from mangalib.benchmark.store import SCHEMA, Store, iter_runs
from mangalib.errors import DataError
from mangalib.settings import load_settings

SETTINGS = load_settings()
END = datetime(2026, 11, 2, tzinfo=UTC)
ALWAYS = (END - timedelta(days=30), END + timedelta(days=1))
HISTORY = SyntheticHistory(
    days=4, runs_per_day=4, samples=6, levels_ms={"faq": (290.0, 900.0), "greeting": (285.0, 600.0)}, end=END
)
TODAY = date(2026, 11, 3)


@pytest.fixture(scope="module")
def runs() -> list[pd.DataFrame]:
    return list(iter_runs(synthetic_history.samples(HISTORY, [], np.random.default_rng(1), SETTINGS)))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"), SETTINGS)


def files(store: Store) -> list[Path]:
    return sorted(Path(store.url).rglob("*"))


def parquet(store: Store) -> list[Path]:
    return [path for path in files(store) if path.suffix == ".parquet"]


def test_appended_runs_are_loaded_in_the_order_of_time(store: Store, runs: list[pd.DataFrame]) -> None:
    for run in reversed(runs):
        store.append(run)
    assert [path.parent.name for path in parquet(store)][::4] == [f"date=2026-10-{day}" for day in (29, 30, 31)] + [
        "date=2026-11-01"
    ]
    loaded = store.load(*ALWAYS)
    assert loaded.unreadable == []
    assert list(loaded.samples["run_id"].unique()) == [run["run_id"].iloc[0] for run in runs]
    together = pd.concat(runs)
    pd.testing.assert_series_equal(
        loaded.samples["total_ms"], together["total_ms"].reset_index(drop=True), check_names=False
    )
    assert store.newest() == ("past-000015", runs[-1]["started_at"].iloc[0])


def test_a_window_holds_the_runs_that_started_in_it_and_reads_no_other_day(
    store: Store, runs: list[pd.DataFrame]
) -> None:
    for run in runs:
        store.append(run)
    begin, end = (run["started_at"].iloc[0].to_pydatetime() for run in (runs[5], runs[8]))
    (Path(store.url) / "date=2026-10-29" / "run-bad.parquet").write_bytes(b"never read")
    loaded = store.load(begin, end)
    assert list(loaded.samples["run_id"].unique()) == [f"past-{n:06d}" for n in range(5, 9)]
    assert loaded.unreadable == []


def test_plain_parquet_readers_understand_it(store: Store, runs: list[pd.DataFrame]) -> None:
    store.append(runs[0])
    table = pd.read_parquet(store.url)
    assert list(table.columns) == [*SCHEMA.names, "date"]
    assert str(table["date"].iloc[0]) == "2026-10-29"


def test_a_run_is_written_once(store: Store, runs: list[pd.DataFrame]) -> None:
    store.append(runs[0])
    before = parquet(store)[0].read_bytes()
    with pytest.raises(DataError, match="exists already"):
        store.append(runs[0].assign(total_ms=1.0))
    assert parquet(store)[0].read_bytes() == before


def test_past_days_are_compacted_without_changing_the_samples(store: Store, runs: list[pd.DataFrame]) -> None:
    for run in runs:
        store.append(run)
    before = store.load(*ALWAYS).samples
    assert store.compact(TODAY) == 16
    assert len(parquet(store)) == 4
    pd.testing.assert_frame_equal(before, store.load(*ALWAYS).samples)
    assert store.compact(TODAY) == 0
    assert store.started_at("past-000003") == runs[3]["started_at"].iloc[0]


def test_yesterday_and_today_are_left_as_they_are(store: Store, runs: list[pd.DataFrame]) -> None:
    for run in runs:
        store.append(run)
    assert store.compact(date(2026, 11, 1)) == 8
    assert len(list((Path(store.url) / "date=2026-11-01").iterdir())) == 4


def test_a_late_run_is_compacted_into_its_day(store: Store, runs: list[pd.DataFrame]) -> None:
    for run in runs[1:]:
        store.append(run)
    store.compact(TODAY)
    store.append(runs[0])
    assert store.load(*ALWAYS).samples["run_id"].nunique() == 16
    assert store.compact(TODAY) == 2
    assert store.load(*ALWAYS).samples["run_id"].nunique() == 16


def test_an_interrupted_compaction_leaves_each_run_once(store: Store, runs: list[pd.DataFrame]) -> None:
    for run in runs[:4]:
        store.append(run)
    kept = {path: path.read_bytes() for path in parquet(store)}
    store.compact(TODAY)
    for path, content in kept.items():
        path.write_bytes(content)
    loaded = store.load(*ALWAYS).samples
    assert not loaded.duplicated(["run_id", "intent", "sequence"]).any()
    assert loaded["run_id"].nunique() == 4
    assert store.compact(TODAY) == 4
    assert len(parquet(store)) == 1


def test_concurrent_writes_reads_and_compactions_lose_no_run(store: Store, runs: list[pd.DataFrame]) -> None:
    def work(number: int) -> int:
        own = Store(store.url, SETTINGS)
        own.append(runs[number])
        own.compact(TODAY)
        return int(own.load(*ALWAYS).samples["run_id"].eq(f"past-{number:06d}").sum())

    with ThreadPoolExecutor(8) as threads:
        seen = list(threads.map(work, range(16)))
    assert seen == [len(run) for run in runs]
    store.compact(TODAY)
    loaded = store.load(*ALWAYS).samples
    assert len(loaded) == sum(len(run) for run in runs)
    assert all(path.suffix == ".parquet" for path in files(store) if path.is_file()), "no partial file is left"


def test_a_half_written_file_is_never_read_and_is_named(store: Store, runs: list[pd.DataFrame]) -> None:
    for run in runs[:2]:
        store.append(run)
    whole = parquet(store)[0].read_bytes()
    folder = Path(store.url) / "date=2026-10-29"
    (folder / "run-cut.parquet").write_bytes(whole[: len(whole) // 2])
    (folder / ".run-hidden.parquet.1234").write_bytes(whole[:100])
    (folder / "_temporary.parquet").write_bytes(b"")
    loaded = store.load(*ALWAYS)
    assert loaded.samples["run_id"].nunique() == 2
    assert loaded.unreadable == ["run-cut.parquet"]
    assert store.compact(TODAY) == 0, "a day with something unreadable is left as it is"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda t: t.drop_columns(["total_ms"]), "column total_ms is missing"),
        (
            lambda t: t.set_column(t.schema.get_field_index("ok"), "ok", pa.array(["yes"] * len(t))),
            "column ok is .*string.*; expected bool",
        ),
        (
            lambda t: t.set_column(t.schema.get_field_index("intent"), "intent", pa.array([7] * len(t))),
            "column intent is int64; expected string",
        ),
        (
            lambda t: t.set_column(
                t.schema.get_field_index("started_at"), "started_at", t["started_at"].cast(pa.timestamp("us"))
            ),
            r"column started_at is timestamp\[us\]; expected timestamp\[us, tz=UTC\]",
        ),
        (
            lambda t: t.set_column(
                t.schema.get_field_index("run_id"), "run_id", pa.array([None] * len(t), pa.string())
            ),
            "column run_id has 12 missing values",
        ),
    ],
)
def test_a_file_with_other_columns_is_named_with_the_column(
    store: Store, runs: list[pd.DataFrame], spoil: Any, says: str
) -> None:
    store.append(runs[0])
    path = parquet(store)[0]
    pq.write_table(spoil(pq.read_table(path, partitioning=None)), path)
    with pytest.raises(DataError, match=says) as raised:
        store.load(*ALWAYS)
    assert path.name in str(raised.value)


def test_files_that_others_wrote_with_wider_types_are_read(store: Store, runs: list[pd.DataFrame]) -> None:
    folder = Path(store.url) / "date=2026-10-29"
    folder.mkdir(parents=True)
    frame = runs[0].astype({"run_id": "object", "intent": "object", "sequence": "int64", "tokens": "float64"})
    frame.assign(extra=1).to_parquet(folder / "theirs.parquet", index=False)
    assert len(store.load(*ALWAYS).samples) == len(runs[0])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r.drop(columns="origin"), "column origin: missing"),
        (lambda r: r.assign(total_ms="fast"), "column total_ms: expected double"),
        (lambda r: r.assign(ok=None), "column ok: 12 values are missing"),
        (lambda r: r.assign(run_id="../../etc/passwd"), "run_id '../../etc/passwd'"),
        (lambda r: r.iloc[:0], "0 runs; expected one"),
    ],
)
def test_an_invalid_run_is_refused_before_anything_is_written(
    store: Store, runs: list[pd.DataFrame], change: Any, says: str
) -> None:
    with pytest.raises(DataError, match=says):
        store.append(change(runs[0]))
    assert files(store) == []


def test_two_runs_in_one_table_are_refused(store: Store, runs: list[pd.DataFrame]) -> None:
    with pytest.raises(DataError, match="2 runs; expected one"):
        store.append(pd.concat(runs[:2]))


def test_an_unknown_run_is_an_error_that_names_the_newest(store: Store, runs: list[pd.DataFrame]) -> None:
    with pytest.raises(DataError, match=r"no run 'x' in .*: none, it is empty"):
        store.started_at("x")
    store.append(runs[0])
    with pytest.raises(DataError, match="the newest are: past-000000"):
        store.started_at("x")


def test_a_newest_run_in_the_future_is_an_error(store: Store, runs: list[pd.DataFrame]) -> None:
    store.append(runs[0])
    store.require_past(END, 60)
    with pytest.raises(DataError, match="correct the clock"):
        store.require_past(END - timedelta(days=10), 60)


def test_an_url_of_another_kind_is_refused() -> None:
    with pytest.raises(DataError, match="expected a folder or s3://"):
        Store("gs://bucket/prefix", SETTINGS)
