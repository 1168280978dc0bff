"""``python -m tests.system.soak [--minutes 30]``: prints the result; exits with 1 when it failed."""

from __future__ import annotations

import argparse
import asyncio
import platform
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from tests.system.soak.soak import soak
from tests.system.soak.test_soak import problems


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.system.soak", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mangalib-soak-") as folder:
        figures = asyncio.run(soak(options.minutes, Path(folder), options.seed))
    print(f"{datetime.now(UTC):%Y-%m-%d}, {platform.platform()}, Python {platform.python_version()}")
    print(figures.report())
    found = problems(figures)
    sys.exit("\n".join(found) if found else 0)


if __name__ == "__main__":
    main()
