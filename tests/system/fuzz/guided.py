"""Coverage-guided fuzzing with libFuzzer: ``python -m tests.system.fuzz.guided TARGET --inputs N``.

It needs Atheris beside the project's libraries; `make fuzz` creates such an environment. It is useful where our own Python
parses bytes: the event stream.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["mangalib"]):
    from tests.system.fuzz.targets import TARGETS, temporary_folder

MAX_BYTES = 2048


def main() -> None:
    """Exit with code 0 if all inputs were read or refused, else with the failing input."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.system.fuzz.guided", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    options = parser.parse_args()
    target = TARGETS[options.target]

    def read(data: bytes) -> None:
        # The repair depends on the input alone, so that failures are reproducible.
        target.read(target.repair(bytearray(data), random.Random(len(data))) if target.repair is not None else data)

    with temporary_folder(), tempfile.TemporaryDirectory(prefix="mangalib-corpus-") as corpus:
        for number, seed in enumerate(target.seeds):
            (Path(corpus) / str(number)).write_bytes(seed)
        words = Path(corpus) / "words.txt"
        words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
        flags = [f"-runs={options.inputs}", f"-max_len={MAX_BYTES}", "-timeout=10", "-seed=1", "-print_final_stats=1"]
        atheris.Setup([sys.argv[0], *flags, f"-dict={words}", corpus], read)
        atheris.Fuzz()


def _escaped(word: bytes) -> str:
    return "".join(rf"\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    main()
