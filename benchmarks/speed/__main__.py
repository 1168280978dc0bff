"""Runs all of it: `make benchmark`, or `python -m benchmarks.speed [ITEM …]` for some."""

from __future__ import annotations

import argparse
import os
import platform
import time
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

from benchmarks.speed.tables import Table, keep, quote

ITEMS = ("transport", "scale", "batching", "hedging", "start", "overload")
RESULTS = Path(__file__).resolve().parents[1] / "results"


def main() -> None:
    """Print each table as soon as it is measured, and write all of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("items", nargs="*", metavar="ITEM", help=f"of {', '.join(ITEMS)}; by default all")
    items = parser.parse_args().items or ITEMS
    if unknown := set(items) - set(ITEMS):
        parser.error(f"no item {', '.join(sorted(unknown))}; expected some of {', '.join(ITEMS)}")
    machine = (
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.platform()}, {os.cpu_count()} processors, "
        f"Python {platform.python_version()}"
    )
    print(machine, "\n", flush=True)
    started_s, tables = time.monotonic(), list[Table]()
    for item in items:
        for table in import_module(f"benchmarks.speed.{item}").tables():
            print(table, flush=True)
            tables.append(table)
    keep(tables, machine, RESULTS)
    print(f"{(time.monotonic() - started_s) / 60:.0f} minutes; written to benchmarks/results", end="")
    if tuple(items) == ITEMS:
        quote(tables, machine, RESULTS.with_name("README.md"))
        print(" and benchmarks/README.md", end="")
    print()


if __name__ == "__main__":
    main()
