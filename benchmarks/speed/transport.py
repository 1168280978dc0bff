"""Item 1: what a client of Bedrock adds to the first token and costs an event, ours beside what one would otherwise use.

Each client is a process of its own in an environment of its own, and they take turns, round by round; a round before the
first is not counted. All ask the same stand-in for the same answer of about 115 events, one every 11 ms.

before     from when a question is to be asked until the stand-in has it: waiting for a connection, signing, sending
after      from when its first text left the stand-in until the client's program holds it
CPU        processor time of the client's process, all threads, by the number of events that the stand-in sent

"The orchestrator" is our whole path: from Bedrock's socket to the frame posted to the gateway, with routing, cards and the replay
store. Its CPU is the orchestrator process's, its times are taken at our client of the gateway.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import numpy as np
import psutil
from tqdm.auto import tqdm

from benchmarks.speed.customers import customers
from benchmarks.speed.environments import PEERS, python_of
from benchmarks.speed.profile import share_of_parts
from benchmarks.speed.tables import Table, value_range
from mangalib.client import Client
from mangalib.local import Stack, running_stack
from mangalib.protocol import Chunk

ANSWER = " ".join(f"word{number}" for number in range(90))
REPETITIONS, REPETITIONS_OF_FEWER = 4, 3
MOST = 200
# How many questions a round has, and over how many seconds they come.
LEVELS = {"one": (1, 0.0), "10 at once": (10, 0.0), "200 at once": (MOST, 0.0), "200 within 2 s": (MOST, 2.0)}
CALM, CROWDED = "200 within 2 s", "200 at once"

BLOCKING, THREADS, AIO = "boto3, blocking the loop", "boto3 in threads", "aiobotocore"
OURS, WHOLE = "ours, the client alone", "ours, the orchestrator"
# A loop that blocks answers one after another: 200 would take minutes.
BLOCKING_AT_MOST = 10
PEERS_OF = {
    BLOCKING: ("boto3", "boto3_blocking.py"),
    THREADS: ("boto3", "boto3_threads.py"),
    AIO: ("aiobotocore", "aiobotocore_client.py"),
    "LiteLLM": ("litellm", "litellm_client.py"),
    OURS: (None, "mangalib_client.py"),
}

Round = dict[str, Any]


class MeasuredClient(Protocol):
    """A client that is measured."""

    async def ask(self, plan: dict[str, float]) -> Round:
        """Ask each question so many seconds after the start; returns a round's figures as ``peers/rounds.py`` prints them."""


class Peer:
    """A client in its own process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    async def ask(self, plan: dict[str, float]) -> Round:
        """See :class:`MeasuredClient`."""
        return await asyncio.to_thread(self._ask, plan)

    def _ask(self, plan: dict[str, float]) -> Round:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(plan), file=self._process.stdin, flush=True)
        answer: Round = json.loads(self._process.stdout.readline())
        return answer


@contextmanager
def peer(stack: Stack, environment: str | None, script: str) -> Iterator[Peer]:
    """Start a client; its process ends with the block."""
    where = {
        "url": stack.addresses["bedrock_url"],
        "ca": stack.addresses["bedrock_ca"],
        "region": stack.settings.region,
        "model": stack.settings.haiku_model_id,
        "at_once": MOST,
    }
    keys = {name.upper(): stack.addresses[name] for name in ("aws_access_key_id", "aws_secret_access_key")}
    python = python_of(environment) if environment else Path(sys.executable)
    command = [str(python), str(PEERS / script), json.dumps(where)]
    # A library's output must go somewhere: an unread pipe would block it once it is full.
    with (
        tempfile.TemporaryFile("w+") as written,
        subprocess.Popen(
            command,
            env={**os.environ, **keys},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=written,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                written.seek(0)
                raise SystemExit(f"{script} did not start:\n{written.read()}")
            yield Peer(process)
        finally:
            process.kill()


class Orchestrator:
    """Our whole path, asked by clients of the gateway."""

    def __init__(self, stack: Stack, clients: list[Client]) -> None:
        self._process = psutil.Process(stack.processes["orchestrator"].pid)
        self._clients = clients

    @classmethod
    @asynccontextmanager
    async def connected(cls, stack: Stack) -> AsyncIterator[Orchestrator]:
        """With as many clients as the largest round has questions."""
        async with customers(stack, MOST) as clients:
            yield cls(stack, clients)

    async def ask(self, plan: dict[str, float]) -> Round:
        """See :class:`MeasuredClient`."""
        started_s, before = time.monotonic(), self._process.cpu_times()
        first_text_s: dict[str, float] = {}

        async def one(client: Client, question: str) -> None:
            await asyncio.sleep(started_s + plan[question] - time.monotonic())
            async for received in client.ask(question, intent="greeting"):
                if isinstance(received.frame, Chunk):
                    first_text_s.setdefault(question, time.monotonic())

        await asyncio.gather(*map(one, self._clients, plan))
        after = self._process.cpu_times()
        cpu_s = after.user + after.system - before.user - before.system
        asked_s = {question: started_s + after_s for question, after_s in plan.items()}
        return {"cpu_s": cpu_s, "asked_s": asked_s, "first_text_s": first_text_s}


async def one_round(
    stack: Stack, asked: MeasuredClient, names: Iterator[int], questions: int, within_s: float
) -> dict[str, float]:
    """Milliseconds before and after the model, and microseconds of CPU an event."""
    plan = {f"Hello there, I am guest {next(names)}": within_s * number / questions for number in range(questions)}
    before = await asyncio.to_thread(stack.bedrock_stats)
    seen = await asked.ask(plan)
    events = (await asyncio.to_thread(stack.bedrock_stats))["events_sent"] - before["events_sent"]
    transcripts = await asyncio.to_thread(stack.local, "bedrock", "GET", "transcripts")
    model = {entry["question"]: entry for entry in transcripts}
    found = {"cpu_us": seen["cpu_s"] / events * 1e6}
    sides = {
        "before": [model[question]["asked_at_s"] - seen["asked_s"][question] for question in plan],
        "after": [seen["first_text_s"][question] - model[question]["first_text_sent_at_s"] for question in plan],
    }
    for name, seconds in sides.items():
        found[f"{name}_p50"], found[f"{name}_p99"] = (float(ms) for ms in np.percentile(seconds, [50, 99]) * 1000)
    return found


def repetitions(level: str) -> int:
    """How many rounds count."""
    return REPETITIONS if LEVELS[level][0] == MOST else REPETITIONS_OF_FEWER


async def measure(stack: Stack) -> tuple[dict[tuple[str, str], list[dict[str, float]]], dict[str, float]]:
    """All clients at all levels, in turns; and where the orchestrator's time went at the last."""
    rounds: dict[tuple[str, str], list[dict[str, float]]] = {}
    names = count()
    async with AsyncExitStack() as open_:
        clients: dict[str, MeasuredClient] = {
            name: await asyncio.to_thread(open_.enter_context, peer(stack, *which)) for name, which in PEERS_OF.items()
        }
        clients[WHOLE] = await open_.enter_async_context(Orchestrator.connected(stack))
        plan = [
            (level, number, name) for level in LEVELS for number in range(1 + repetitions(level)) for name in clients
        ]
        for level, number, name in tqdm(plan, desc="rounds", leave=False):
            questions, within_s = LEVELS[level]
            if name == BLOCKING and (questions > BLOCKING_AT_MOST or (questions > 1 and number != 1)):
                continue
            found = await one_round(stack, clients[name], names, questions, within_s)
            if number:
                rounds.setdefault((name, level), []).append(found)
        with share_of_parts(stack.processes["orchestrator"].pid) as parts:
            for _ in range(3):
                await one_round(stack, clients[WHOLE], names, *LEVELS[CALM])
    return rounds, parts


def tables() -> list[Table]:
    """First token and CPU of every client, and the profile of the orchestrator."""
    # A short and steady wait for the first token, and no delay of a cold model: what is measured is what comes on top.
    with running_stack(
        local_haiku_first_token_ms=100,
        local_first_token_sigma=0,
        local_cold_min_ms=0,
        local_cold_max_ms=0,
        answers_ahead=False,
        hedge_share=0,
        capacity_answers=2 * MOST,
    ) as stack:
        stack.local("bedrock", "PUT", "answer", {"text": ANSWER})
        rounds, parts = asyncio.run(measure(stack))
    rows = [
        [
            level,
            name,
            *(
                f"{median(r[key] for r in found):,.1f}"
                for key in ("before_p50", "before_p99", "after_p50", "after_p99")
            ),
            value_range([r["cpu_us"] for r in found]),
        ]
        for level in LEVELS
        for name in [*PEERS_OF, WHOLE]
        if (found := rounds.get((name, level)))
    ]
    columns = ["asked", "client", "before p50, ms", "p99", "after p50, ms", "p99", "CPU an event, µs"]
    notes = [
        f"Medians of {REPETITIONS_OF_FEWER} rounds, of {REPETITIONS} with {MOST}; CPU with its least and most. "
        f"A loop that blocks was asked {BLOCKING_AT_MOST} once, {MOST} never.",
        _verdict(rounds),
    ]
    return [
        Table("transport", "1. First token and processor time, by client", columns, rows, notes),
        _profile(rounds, parts),
    ]


def _verdict(rounds: dict[tuple[str, str], list[dict[str, float]]]) -> str:
    def cpu(name: str) -> float:
        return median(r["cpu_us"] for level in (CALM, CROWDED) for r in rounds[name, level])

    def added(name: str) -> float:
        return median(r["before_p99"] + r["after_p99"] for r in rounds[name, CALM])

    lines = [
        f"Target: under a third of aiobotocore's CPU, and a fifth of boto3's in threads. {name}: "
        f"{cpu(name) / cpu(AIO):.2f} of the one, {cpu(name) / cpu(THREADS):.2f} of the other."
        for name in (OURS, WHOLE)
    ]
    lines.append(
        f"Target: 10 ms added to the first token, p99 at 200 streams. Before and after, {CALM}: "
        + ", ".join(f"{name} {added(name):.0f} ms" for name in (OURS, WHOLE, AIO, THREADS))
        + "."
    )
    return "\n".join(lines)


def _profile(rounds: dict[tuple[str, str], list[dict[str, float]]], parts: dict[str, float]) -> Table:
    cpu_us = median(r["cpu_us"] for r in rounds[WHOLE, CALM])
    rows = [[part, f"{share:.0%}", f"{share * cpu_us:.1f}"] for part, share in parts.items()]
    notes = ["Samples of the running orchestrator, by the innermost part of ours that each was in."]
    if not parts:
        notes = ["Not sampled: this user may not look into another process here."]
    return Table(
        "transport-profile",
        f"1. Where the orchestrator's time goes, {CALM}",
        ["part", "share", "µs an event"],
        rows,
        notes,
    )
