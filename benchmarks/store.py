"""How long it takes to load the last week from a year of benchmark runs, and to compute a verdict.

    .venv/bin/python benchmarks/store.py [--days 365] [--json FILE]

Writes 96 runs a day of 8 intents and 50 requests into a temporary folder, loads the last 7 days before and after past days
are compacted, and judges the newest run in a process of its own. Medians of five. It reports figures; nothing passes or fails.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
from tqdm.auto import tqdm

from mangalib.benchmark import Store, iter_runs
from mangalib.benchmark.experiments import SyntheticHistory, synthetic_history
from mangalib.settings import environment, load_settings

END = datetime(2026, 11, 2, tzinfo=UTC)
REPETITIONS = 5


def fill(store: Store, folder: Path, days: int) -> int:
    """Write a simulated week, and copies of it under other dates and names as the weeks before: only the number of files
    matters. Returns the number of files."""
    settings = load_settings()
    week = replace(SyntheticHistory(), samples=50, end=END, sigma=0.15)
    for run in tqdm(
        iter_runs(synthetic_history.samples(week, [], np.random.default_rng(1), settings)), total=week.runs, leave=False
    ):
        store.append(run)
    files = sorted(folder.rglob("*.parquet"))
    for back in tqdm(range(1, days // 7 + 1), desc="weeks before", leave=False):
        for file in files:
            day = date.fromisoformat(file.parent.name.removeprefix("date=")) - timedelta(days=7 * back)
            target = folder / f"date={day}" / file.name.replace("past-", f"past-{back:02d}-")
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, target)
    return sum(1 for _ in folder.rglob("*.parquet"))


def timed(store: Store) -> float:
    """Seconds to load the last 7 days."""
    seconds = []
    for _ in range(REPETITIONS):
        started = time.perf_counter()
        loaded = store.load(END - timedelta(days=7), END)
        seconds.append(time.perf_counter() - started)
        assert loaded.samples["run_id"].nunique() == 672
    return median(seconds)


def judged(folder: Path) -> dict[str, float]:
    """Time and memory of ``mangalib verdict --json`` on the newest run and the 671 before it."""
    env = environment({"store": str(folder), "look_back_days": 7})
    command = [sys.executable, "-m", "mangalib.cli", "verdict", "--json"]
    found: list[dict[str, float]] = []
    for _ in range(REPETITIONS):
        started = time.perf_counter()
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
        peak = 0
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                peak = max(peak, watched.memory_info().rss)
            except psutil.NoSuchProcess:
                break
            time.sleep(0.01)
        output = process.communicate()[0]
        whole_s = time.perf_counter() - started
        found.append({"whole_s": whole_s, "computing_s": json.loads(output)["computing_s"], "peak_mb": peak / 2**20})
    return {name: median(one[name] for one in found) for name in found[0]}


def main() -> None:
    """Measure, print, and write the figures to ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    print(f"{platform.platform()}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = Store(name, load_settings())
        files = fill(store, folder, arguments.days)
        record: dict[str, Any] = {"files": files, "load_single_files_s": timed(store), "single": judged(folder)}
        print(f"    {files} files; the last 7 days, a file a run: {record['load_single_files_s']:.2f} s")
        started = time.perf_counter()
        deleted = store.compact(END.date() + timedelta(days=1))
        record |= {"compacted_files": deleted, "compact_s": time.perf_counter() - started}
        record |= {"load_compacted_s": timed(store), "compacted": judged(folder)}
        print(f"    {deleted} files compacted in {record['compact_s']:.1f} s; then: {record['load_compacted_s']:.2f} s")
        for what in ("single", "compacted"):
            line = record[what]
            print(
                f"    verdict, {what:10} processor time {line['computing_s']:.2f} s, the whole command "
                f"{line['whole_s']:.2f} s, memory {line['peak_mb']:.0f} MB"
            )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
