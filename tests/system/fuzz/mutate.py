"""Almost valid inputs: seeded mutations of valid ones, so that failures are reproducible."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tests.system.fuzz.targets import Target

MAX_BYTES = 2048


def inputs(target: Target, count: int, seed: int) -> Iterator[bytes]:
    """``count`` inputs for a target; where an input is a line, each value holds ``target.lines`` of them."""
    rng = random.Random(seed)
    for _ in range(0, count, target.lines):
        data = bytearray(rng.choice(target.seeds))
        for _ in range(rng.choice((1, 1, 2, 3, 5, 8))):
            _mutate(data, target, rng)
        if target.lines > 1:
            data = _many_lines(data, target, rng)
        del data[MAX_BYTES * target.lines :]
        yield target.repair(data, rng) if target.repair is not None else bytes(data)


def _many_lines(first: bytearray, target: Target, rng: random.Random) -> bytearray:
    # Most files have a valid header, so that their lines are read.
    seed = rng.choice(target.seeds)
    head, *lines = seed.splitlines(keepends=True)
    data = bytearray(head if rng.random() < 0.8 else first)
    for _ in range(target.lines - 1):
        line = bytearray(rng.choice(lines or [head]))
        if rng.random() < 0.5:
            _mutate(line, target, rng)
        data += line
    return data


def _mutate(data: bytearray, target: Target, rng: random.Random) -> None:
    at, end = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
    match rng.randrange(8):
        case 0 if data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        case 1:
            del data[at : min(end, at + 16)]
        case 2:
            data[at:at] = rng.choice(target.words)
        case 3:
            data[at : min(end, at + 8)] = rng.choice(target.words)
        case 4:
            data[at:at] = data[at : min(end, at + 64)] * rng.choice((1, 2, 8))
        case 5:
            other = rng.choice(target.seeds)
            cut = rng.randrange(len(other) + 1)
            data[at:] = other[cut:]
        case 6:
            data[at:at] = rng.randbytes(rng.randrange(1, 5))
        case 7 if data:
            data[at % len(data)] = rng.choice((0, 9, 10, 32, 34, 39, 44, 58, 91, 123, 127, 255))
