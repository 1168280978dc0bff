"""Where a running process spends its time, by the purpose of the code: py-spy's samples, grouped."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.speed.environments import python_of

# By package and file; from the innermost frame outwards, the first that is one of these names the part.
PARTS = {
    "aws/signing.py": "signing requests",
    "aws/event_stream.py": "decoding the model's events",
    "aws/bedrock.py": "decoding the model's events",
    "aws/model_messages.py": "decoding the model's events",
    "aws/hedging.py": "decoding the model's events",
    "serving/text_source.py": "decoding the model's events",
    "protocol/cards.py": "looking for titles",
    "domain/catalogue.py": "looking for titles",
    "serving/replay_store.py": "keeping frames in Redis",
    "serving/answer_protocol.py": "choosing and keeping frames",
    "serving/text_batcher.py": "choosing and keeping frames",
    "serving/outbox.py": "choosing and keeping frames",
    "aws/management_api.py": "posting frames",
    "aws/http1.py": "sockets, HTTP and waiting",
    "aws/connection_pool.py": "sockets, HTTP and waiting",
    "serving/orchestrator.py": "beginning and ending an answer",
    "serving/answer.py": "beginning and ending an answer",
}
ELSE = "the event loop, TLS and the rest"
SAMPLES_PER_S = 200


@contextmanager
def share_of_parts(pid: int) -> Iterator[dict[str, float]]:
    """Sample while the block runs; afterwards the yielded dict holds the parts and their shares, the largest first.

    It stays empty where this user may not inspect other processes.
    """
    shares: dict[str, float] = {}
    py_spy = python_of("profiler").with_name("py-spy")
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "samples.txt"
        # Without idle threads; on SIGINT it stops and writes.
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
            shares.update(share_by_part(raw.read_text().splitlines()))


def share_by_part(lines: list[str]) -> dict[str, float]:
    counted: Counter[str] = Counter()
    for line in lines:
        stack, _, samples = line.rpartition(" ")
        if "asyncio/runners.py" not in stack and "run_until_complete" not in stack:
            continue  # another thread, waiting for work
        frames = reversed(stack.split(";"))
        files = (frame.rpartition("mangalib/")[2].partition(":")[0] for frame in frames if "mangalib/" in frame)
        counted[next((PARTS[file] for file in files if file in PARTS), ELSE)] += int(samples)
    total = sum(counted.values())
    return {part: samples / total for part, samples in counted.most_common()}
