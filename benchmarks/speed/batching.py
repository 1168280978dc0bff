"""Item 3: how many frames and bytes batches of 1, 3 and 10 deltas save, and what that costs the first token.

The sender collects text in any case while a post is in flight; beyond that it waits for a batch, except for the first text, which
never waits. With one answer at a time and batches of 1 every delta is a frame. Sizes are switched by releases, in turns.
"""

from __future__ import annotations

import asyncio
import os
import time
from statistics import median
from typing import Any

import numpy as np
import psutil
from tqdm.auto import tqdm

from benchmarks.speed.customers import customers
from benchmarks.speed.tables import Table, value_range
from mangalib.aws import DocumentTable, dynamodb_client
from mangalib.client import Client
from mangalib.domain import Release, ReleaseStore
from mangalib.errors import ReleaseError
from mangalib.local import Stack, running_stack
from mangalib.protocol import Chunk, encode

SIZES = (1, 3, 10)
LEVELS = {"one at a time": 1, "200 at once": 200}
ROUNDS = 3
ANSWER = " ".join(f"word{number}" for number in range(90))


async def _answer(client: Client, question: str) -> dict[str, Any]:
    found: dict[str, Any] = {"frames": 0, "bytes": 0, "text_bytes": 0, "first_text_s": None}
    async for received in client.ask(question, intent="greeting"):
        if isinstance(received.frame, Chunk):
            found["first_text_s"] = found["first_text_s"] or time.monotonic()
            size = len(encode(received.frame))
            found["frames"] += 1
            found["bytes"] += size + (2 if size < 126 else 4)  # of a WebSocket frame from a server (RFC 6455)
            found["text_bytes"] += len(received.frame.text.encode())
    return found


async def one_round(stack: Stack, clients: list[Client], name: str) -> dict[str, float]:
    """Frames and bytes an answer, ms from the first text's leaving the model to the client, µs of CPU an event."""
    orchestrator = psutil.Process(stack.processes["orchestrator"].pid)
    questions = [f"Hello there, I am guest {name}.{number}" for number in range(len(clients))]
    before, cpu = await asyncio.to_thread(stack.bedrock_stats), orchestrator.cpu_times()
    answers = await asyncio.gather(*map(_answer, clients, questions))
    after, cpu_after = await asyncio.to_thread(stack.bedrock_stats), orchestrator.cpu_times()
    transcripts = await asyncio.to_thread(stack.local, "bedrock", "GET", "transcripts")
    left_s = {entry["question"]: entry["first_text_sent_at_s"] for entry in transcripts}
    delays_ms = [
        1000 * (found["first_text_s"] - left_s[question]) for question, found in zip(questions, answers, strict=True)
    ]
    cpu_s = cpu_after.user + cpu_after.system - cpu.user - cpu.system
    return {
        **{key: float(np.mean([found[key] for found in answers])) for key in ("frames", "bytes", "text_bytes")},
        "delay_p50": float(np.percentile(delays_ms, 50)),
        "delay_p99": float(np.percentile(delays_ms, 99)),
        "cpu_us": cpu_s / (after["events_sent"] - before["events_sent"]) * 1e6,
    }


async def measure(stack: Stack) -> dict[tuple[str, int], list[dict[str, float]]]:
    """All sizes at both levels, in turns."""
    settings = stack.settings
    releases = ReleaseStore(
        DocumentTable(dynamodb_client(settings), settings.releases_table, key="release", error=ReleaseError)
    )
    release_numbers = {size: releases.create(Release(note="benchmark", chunk_batch_size=size)).number for size in SIZES}
    rounds: dict[tuple[str, int], list[dict[str, float]]] = {}
    async with customers(stack, max(LEVELS.values())) as clients:
        for number in tqdm(range(1 + ROUNDS), desc="rounds", leave=False):
            for size, release in release_numbers.items():
                await asyncio.to_thread(releases.activate, release, "benchmark")
                while (reply := await clients[0].answer("Hello", intent="greeting")).metadata is not None:
                    if reply.metadata.release == release:
                        break
                for level, at_once in LEVELS.items():
                    found = await one_round(stack, clients[:at_once], f"{number}.{size}.{at_once}")
                    if number:
                        rounds.setdefault((level, size), []).append(found)
    return rounds


def tables() -> list[Table]:
    """The table."""
    with running_stack(
        local_haiku_first_token_ms=100,
        local_cold_min_ms=0,
        local_cold_max_ms=0,
        answers_ahead=False,
        hedge_share=0,
        release_refresh_s=0.2,
        capacity_answers=2 * max(LEVELS.values()),
    ) as stack:
        for name in ("aws_access_key_id", "aws_secret_access_key"):
            os.environ[name.upper()] = stack.addresses[name]
        stack.local("bedrock", "PUT", "answer", {"text": ANSWER})
        rounds = asyncio.run(measure(stack))
        expected, usual = stack.settings.expected_batching_saving_share, stack.settings.chunk_batch_size

    def of(level: str, size: int, key: str) -> float:
        return median(r[key] for r in rounds[level, size])

    def overhead(level: str, size: int) -> float:
        return of(level, size, "bytes") - of(level, size, "text_bytes")

    every_delta = overhead("one at a time", 1)
    rows = [
        [
            level,
            str(size),
            f"{of(level, size, 'frames'):.0f}",
            f"{of(level, size, 'bytes'):,.0f}",
            f"{1 - overhead(level, size) / every_delta:.0%}",
            f"{of(level, size, 'delay_p50'):.1f}",
            f"{of(level, size, 'delay_p99'):.1f}",
            value_range([r["cpu_us"] for r in rounds[level, size]]),
        ]
        for level in LEVELS
        for size in SIZES
    ]
    columns = ["answers", "batch", "frames", "bytes", "overhead saved", "first text p50, ms", "p99", "CPU an event, µs"]
    notes = [
        f"An answer each, medians of {ROUNDS} rounds. Overhead is all but the text, beside a frame for every delta; "
        f"first text is from its leaving the model to the client. "
        f"The specification expects batches of {usual} to save {expected:.0%}.",
    ]
    return [Table("batching", "3. Batches of deltas", columns, rows, notes)]
