"""Overload: twice an orchestrator's capacity, between two phases below it; whether accepted customers notice.

Questions arrive at a steady rate whether or not they are answered, each on a free connection. All answers take equally long,
so that the rate at which the capacity is exhausted is known: the capacity divided by the duration of an answer.
"""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from benchmarks.speed.customers import customers
from benchmarks.speed.tables import Table
from mangalib.client import Client
from mangalib.local import Stack, running_stack

CAPACITY = 40
CLIENTS = 4 * CAPACITY
PHASE_S = 12.0
PHASES = {"below capacity, 0.8": 0.8, "overload, 2.0": 2.0, "below again, 0.8": 0.8}
NORMAL_WITHIN_S = 5.0
ANSWER = " ".join(f"word{number}" for number in range(60))


class Served(NamedTuple):
    """One question: when it was asked, when it had been answered, its first token in ms; ``None`` where it was refused."""

    asked_s: float
    ended_s: float
    first_token_ms: float | None
    code: str


async def measure(stack: Stack) -> tuple[dict[str, list[Served]], float]:
    """The results of the questions of each phase, and seconds from the overload's end to the last refusal."""
    async with customers(stack, CLIENTS) as clients:
        free: asyncio.LifoQueue[Client] = asyncio.LifoQueue(CLIENTS)
        for client in clients:
            free.put_nowait(client)

        async def ask(into: list[Served]) -> None:
            client = await free.get()
            asked_s = time.monotonic()
            reply = await client.answer("Hello there", intent="greeting")
            free.put_nowait(client)
            code = "" if reply.error is None else reply.error.code
            into.append(Served(asked_s, time.monotonic(), reply.first_token_ms if not code else None, code))

        for _ in range(3):
            await asyncio.gather(*(ask([]) for _ in range(CAPACITY)))  # pools grow
        alone: list[Served] = []
        await ask(alone)
        answer_s = alone[0].ended_s - alone[0].asked_s
        seen: dict[str, list[Served]] = {phase: [] for phase in PHASES}
        overload_ended_s = 0.0
        async with asyncio.TaskGroup() as group:
            for phase, load in tqdm(PHASES.items(), desc="phases", leave=False):
                began_s, rate = time.monotonic(), load * CAPACITY / answer_s
                for number in range(int(rate * PHASE_S)):
                    await asyncio.sleep(began_s + number / rate - time.monotonic())
                    group.create_task(ask(seen[phase]))
                if load > 1:
                    overload_ended_s = time.monotonic()
    refused = [one.asked_s for served in seen.values() for one in served if one.code]
    return seen, max(0.0, max(refused, default=overload_ended_s) - overload_ended_s)


def tables() -> list[Table]:
    """The table."""
    with running_stack(
        local_haiku_first_token_ms=100,
        local_cold_min_ms=0,
        local_cold_max_ms=0,
        answers_ahead=False,
        hedge_share=0,
        capacity_answers=CAPACITY,
    ) as stack:
        stack.local("bedrock", "PUT", "answer", {"text": ANSWER})
        seen, normal_after_s = asyncio.run(measure(stack))
    rows = []
    for phase, served in seen.items():
        first_ms = [one.first_token_ms for one in served if one.first_token_ms is not None]
        lasted_s = max(one.ended_s for one in served) - min(one.asked_s for one in served)
        other = {one.code for one in served} - {"", "busy"}
        rows.append(
            [
                phase,
                f"{len(served):,}",
                f"{len(first_ms) / lasted_s:.0f}",
                f"{sum(one.code == 'busy' for one in served) / len(served):.0%}",
                ", ".join(sorted(other)) or "none",
                *(f"{np.percentile(first_ms, q):.0f}" for q in (50, 99)),
            ]
        )
    columns = [
        "questions, by capacity",
        "asked",
        "served a second",
        "refused as busy",
        "other errors",
        "first token p50, ms",
        "p99",
    ]
    notes = [
        f"Capacity {CAPACITY} answers at once, {PHASE_S:.0f} s each. The last refusal came {normal_after_s:.1f} s after the "
        f"overload's end; target: back to normal within {NORMAL_WITHIN_S:.0f} s."
    ]
    return [Table("overload", "Overload: twice the capacity", columns, rows, notes)]
