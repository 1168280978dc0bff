"""How long the index of 10,000 runs takes: made from nothing, with one more run, and as a page. Prints; never fails."""

from __future__ import annotations

import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import msgspec

from mangalib.jobs import OK, FileLeases, Record, Runs, index_html
from mangalib.settings import load_settings

RUNS, ROUNDS = 10_000, 5


def make(runs: Runs, number: int) -> None:
    started = datetime(2026, 11, 1, tzinfo=UTC) - timedelta(minutes=15 * number)
    name = f"04_benchmark_run/{started:%Y-%m-%d}/{started:%H%M%S}-abcdef"
    record = Record("04_benchmark_run", {"per_intent": 50}, started.isoformat(), started.isoformat(), OK, None)
    record = msgspec.structs.replace(record, results={"answered": 400, "failed": 0}, job="benchmark")
    runs.storage.make(name.rsplit("/", 1)[0])
    runs.storage.write(f"{name}.json", msgspec.json.encode(record).decode())
    runs.storage.write(f"{name}.ipynb", "{}")


def timed(what: str, measure: object) -> None:
    took = []
    for _ in range(ROUNDS):
        started_s = time.perf_counter()
        measure()  # type: ignore[operator]
        took.append(time.perf_counter() - started_s)
    print(f"{what:44}{median(took):8.2f} s  ({min(took):.2f} to {max(took):.2f})")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(folder, FileLeases(Path(folder) / ".leases"), load_settings())
        for number in range(RUNS):
            make(runs, number)
        index = Path(folder) / "runs.json"
        print(f"{RUNS:,} runs, medians of {ROUNDS}")
        timed("index from nothing, every record read", lambda: (index.unlink(missing_ok=True), runs.index()))
        timed("index as after every run", runs.index)
        timed("page", lambda: index_html(runs.index(), datetime.now(UTC)))
        timed("killed runs looked for", runs.reap_orphans)


if __name__ == "__main__":
    main()
