"""Where a running process spends its time, by what the code there is for: py-spy's samples of it, put together."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.speed.environments import python_of

# From the innermost frame outwards, the first that is one of these names the part.
PARTS = {
    "aws.py": "signing requests (botocore)",
    "eventstream.py": "decoding the model's events",
    "bedrock.py": "decoding the model's events",
    "stream.py": "decoding the model's events",
    "hedge.py": "decoding the model's events",
    "cards.py": "looking for titles",
    "catalogue.py": "looking for titles",
    "replay.py": "keeping frames in Redis",
    "framing.py": "choosing and keeping frames",
    "delivery.py": "choosing and keeping frames",
    "gateway.py": "posting frames",
    "connection.py": "sockets, HTTP and waiting",
    "pool.py": "sockets, HTTP and waiting",
    "orchestrator.py": "beginning and ending an answer",
    "answer.py": "beginning and ending an answer",
}
ELSE = "the event loop, TLS and the rest"
SAMPLES_PER_S = 200


@contextmanager
def share_of_parts(pid: int) -> Iterator[dict[str, float]]:
    """Sample while the block runs; afterwards what it gave holds the parts and their shares, the largest first.

    It stays empty where this user may not look into other processes.
    """
    shares: dict[str, float] = {}
    py_spy = python_of("profiler").with_name("py-spy")
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "samples.txt"
        # Without idle threads; it stops when it is interrupted, and writes then.
        command = [str(py_spy), "record", "--pid", str(pid), "--rate", str(SAMPLES_PER_S), "--duration", "600"]
        sampler = subprocess.Popen(
            [*command, "--format", "raw", "--output", str(raw)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            yield shares
        finally:
            sampler.send_signal(signal.SIGINT)
            sampler.wait()
        if raw.exists():
            shares.update(_put_together(raw.read_text().splitlines()))


def _put_together(lines: list[str]) -> dict[str, float]:
    counted: Counter[str] = Counter()
    for line in lines:
        stack, _, samples = line.rpartition(" ")
        if "asyncio/runners.py" not in stack and "run_until_complete" not in stack:
            continue  # another thread, waiting for work
        frames = reversed(stack.split(";"))
        files = (frame.rpartition("/")[2].partition(":")[0] for frame in frames if "mangalib/serving/" in frame)
        counted[next((PARTS[file] for file in files if file in PARTS), ELSE)] += int(samples)
    total = sum(counted.values())
    return {part: samples / total for part, samples in counted.most_common()}
