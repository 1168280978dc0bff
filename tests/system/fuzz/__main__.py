"""Runs each target on a million inputs and prints the results: ``python -m tests.system.fuzz [TARGET ...] [--inputs N]``."""

from __future__ import annotations

import argparse
import platform
import resource
import signal
import time
from datetime import UTC, datetime
from typing import Any

from tqdm.auto import tqdm

from tests.system.fuzz.mutate import inputs
from tests.system.fuzz.targets import TARGETS, Target, temporary_folder

HANGS_AFTER_S = 10


def read_all(target: Target, count: int, seed: int) -> dict[str, float]:
    """Run the target on ``count`` inputs: ``inputs, slowest_ms, grown_mb``. An exception carries its input in a note."""
    signal.signal(signal.SIGALRM, _hangs)
    slowest_s, before_kb, warm = 0.0, 0, count // 10
    count_read = 0
    for data in tqdm(inputs(target, count, seed), target.name, count // target.lines, leave=False, mininterval=1):
        signal.setitimer(signal.ITIMER_REAL, HANGS_AFTER_S)
        started_s = time.perf_counter()
        try:
            target.read(data)
        except BaseException as error:
            error.add_note(f"{target.name}, input {data!r}")
            raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        slowest_s = max(slowest_s, time.perf_counter() - started_s)
        count_read += target.lines
        if count_read <= warm:
            before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
    return {"inputs": count_read, "slowest_ms": slowest_s * 1000, "grown_mb": grown_kb / 1024}


def _hangs(*_: Any) -> None:
    raise TimeoutError(f"no result within {HANGS_AFTER_S} s")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.system.fuzz", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help=f"one of {', '.join(TARGETS)}; all of them by default"
    )
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    unknown = set(options.targets) - set(TARGETS)
    if unknown:
        parser.error(f"unknown target {', '.join(sorted(unknown))}; expected {', '.join(TARGETS)}")
    print(f"{datetime.now(UTC):%Y-%m-%d}, {platform.platform()}, Python {platform.python_version()}")
    print("target             inputs   seconds  slowest, ms  memory grew, MB")
    for name in options.targets or TARGETS:
        started_s = time.monotonic()
        with temporary_folder():
            figures = read_all(TARGETS[name], options.inputs, options.seed)
        took_s = time.monotonic() - started_s
        print(
            f"{name:15s} {figures['inputs']:9,.0f} {took_s:9.0f} {figures['slowest_ms']:12.1f} {figures['grown_mb']:16.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
