"""How long the index of 10,000 runs takes: from the records, from the cache, and as a page. Prints the times; never fails."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import msgspec

from mangalib.jobs import OK, FileLeases, RunRecord, Runs, index_html, reap_orphans
from mangalib.settings import load_settings

RUNS, ROUNDS = 10_000, 5


def add_run(runs: Runs, number: int) -> None:
    started = datetime(2026, 11, 1, tzinfo=UTC) - timedelta(minutes=15 * number)
    name = f"04_benchmark_run/{started:%Y-%m-%d}/{started:%H%M%S}-abcdef"
    record = RunRecord("04_benchmark_run", {"per_intent": 50}, started.isoformat(), started.isoformat(), OK, None)
    record = msgspec.structs.replace(record, results={"answered": 400, "failed": 0}, job="benchmark")
    runs.storage.create_folder(name.rsplit("/", 1)[0])
    runs.storage.write(f"{name}.json", msgspec.json.encode(record).decode())
    runs.storage.write(f"{name}.ipynb", "{}")


def timed(what: str, measure: Callable[[], object]) -> None:
    took = []
    for _ in range(ROUNDS):
        started_s = time.perf_counter()
        measure()
        took.append(time.perf_counter() - started_s)
    print(f"{what:44}{median(took):8.2f} s  ({min(took):.2f} to {max(took):.2f})")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(folder, FileLeases(Path(folder) / ".leases"), load_settings())
        for number in range(RUNS):
            add_run(runs, number)
        index = Path(folder) / "runs.json"
        print(f"{RUNS:,} runs, medians of {ROUNDS}")
        timed("index without a cache, every record read", lambda: (index.unlink(missing_ok=True), runs.index()))
        timed("index from the cache", runs.index)
        timed("page", lambda: index_html(runs.index(), datetime.now(UTC)))
        timed("search for orphans", lambda: reap_orphans(runs))


if __name__ == "__main__":
    main()
