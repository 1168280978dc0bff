"""A long run at half an orchestrator's capacity with random faults: nothing may leak, and every question must be answered."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tqdm.auto import tqdm

from mangalib.client import Client
from mangalib.errors import MangaError, TransportTimeoutError
from mangalib.local.stack import Stack, running_stack
from tests.conftest import QUICK, back_ends

CAPACITY = 24
CUSTOMERS = CAPACITY // 2
WORK_S, REST_S = 14.0, 4.0
FAULT_EVERY_S = 0.7
THINK_TIME_S = 0.5
ANSWERED_WITHIN_S = 30

SETTINGS = {
    **QUICK,
    "capacity_answers": CAPACITY,
    "answers_ahead": True,
    "hedge_share": 0.02,
    # Connections left open by a load are closed by the next rest, so that rests are comparable.
    "pool_shrink_after_s": 1,
    "keep_alive_s": 1,
    "resume_after_silence_s": 2,
    "local_idle_close_s": 600,
}
QUESTIONS = (
    "Hello there",
    "Tell me about One Piece",
    "Recommend me a good fantasy manga",
    "Compare Naruto and Bleach",
    "Where is my order?",
    "What is your return policy?",
    "Is Vinland Saga in stock?",
    "My parcel arrived damaged!",
    "おすすめの漫画を教えて",
)
FAULTS = (
    *(("bedrock", kind) for kind in ("throttle", "reset", "stall", "model_stream_error", "bad_json", "internal")),
    ("bedrock", "slow_first_token"),
    *((service, kind) for service in ("gateway", "opensearch") for kind in ("throttle", "reset", "stall", "internal")),
    ("gateway", "drop"),
)


@dataclass
class Figures:
    """Results: endings by name, faults by name, and the orchestrator's resources at each rest."""

    minutes: float
    endings: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    rests: list[dict[str, float]] = field(default_factory=list)

    def grown(self, name: str) -> float:
        """Growth from the first rests to the last (medians of up to three)."""
        count = min(3, len(self.rests) // 2)
        return median(r[name] for r in self.rests[-count:]) - median(r[name] for r in self.rests[:count])

    def report(self) -> str:
        """A readable report."""
        lines = [
            f"{self.minutes:.0f} minutes, {CUSTOMERS} customers at once, "
            f"{sum(self.faults.values())} faults of {len(self.faults)} kinds",
            "answers: " + ", ".join(f"{count} {name}" for name, count in self.endings.most_common()),
            "at rest            first    last   grown   most",
        ]
        for name in self.rests[0]:
            first, last, most = self.rests[0][name], self.rests[-1][name], max(r[name] for r in self.rests)
            lines.append(f"{name:16s} {first:7.0f} {last:7.0f} {self.grown(name):7.1f} {most:6.0f}")
        return "\n".join(lines)


async def soak(minutes: float, folder: Path, seed: int = 1, *, quiet: bool = False) -> Figures:
    """Run the soak on its own local stack."""
    figures, rng = Figures(minutes), random.Random(seed)
    async with AsyncExitStack() as open_:
        stack = await asyncio.to_thread(open_.enter_context, running_stack(quiet=True, **SETTINGS))
        figures_file = folder / "figures.jsonl"
        command = ("-m", "tests.system.soak.orchestrator", str(figures_file))
        process, addresses = await asyncio.to_thread(
            stack.start, "orchestrator", folder / "orchestrator.json", *command
        )
        try:
            open_.enter_context(back_ends(stack, addresses["orchestrator_url"]))
            rounds = max(2, round(minutes * 60 / (WORK_S + REST_S)))
            for _ in tqdm(range(rounds), desc="rounds", disable=quiet):
                await _work(stack, figures, rng)
                await asyncio.to_thread(stack.local, "bedrock", "DELETE", "faults")
                await asyncio.sleep(REST_S)
                figures.rests.append(json.loads(figures_file.read_text(encoding="utf-8").splitlines()[-1]))
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait, 40)
            assert process.stdin is not None
            process.stdin.close()
    return figures


async def _work(stack: Stack, figures: Figures, rng: random.Random) -> None:
    until_s = time.monotonic() + WORK_S
    async with asyncio.TaskGroup() as group:
        injecting = group.create_task(_inject_faults(stack, figures, rng))
        customers = [
            group.create_task(_customer(stack, number, figures, rng, lambda: time.monotonic() < until_s))
            for number in range(CUSTOMERS)
        ]
        await asyncio.wait(customers)
        injecting.cancel()


async def _customer(
    stack: Stack, number: int, figures: Figures, rng: random.Random, continues: Callable[[], bool]
) -> None:
    """Sessions of a few questions each, one after another."""
    token = stack.token_for(f"customer-{number % 40 + 1:03d}")
    settings = stack.settings.model_copy(update={"reconnect_attempts": 20})
    while continues():
        try:
            async with Client(stack.addresses["websocket_url"], token, settings=settings) as client:
                for _ in range(rng.randrange(1, 6)):
                    figures.endings[await _ending(client, rng.choice(QUESTIONS))] += 1
                    await asyncio.sleep(rng.uniform(0, 2 * THINK_TIME_S))
        except MangaError as error:
            figures.endings[f"no session ({type(error).__name__})"] += 1
            await asyncio.sleep(0.1)


async def _ending(client: Client, question: str) -> str:
    try:
        async with asyncio.timeout(ANSWERED_WITHIN_S):
            reply = await client.answer(question)
    except (TimeoutError, TransportTimeoutError):
        return "unanswered"
    return "whole" if reply.error is None else reply.error.code


async def _inject_faults(stack: Stack, figures: Figures, rng: random.Random) -> None:
    while True:
        await asyncio.sleep(rng.uniform(0, 2 * FAULT_EVERY_S))
        service, kind = rng.choice(FAULTS)
        figures.faults[f"{service} {kind}"] += 1
        if kind == "drop":
            await asyncio.to_thread(stack.local, "gateway", "DELETE", "connections")
            continue
        fault = {"kind": kind, "delay_ms": 1500 if kind in {"stall", "slow_first_token"} else 0}
        if service == "bedrock":
            fault["after_events"] = rng.choice((0, 0, 5, 20))
        await asyncio.to_thread(stack.local, service, "POST", "faults", fault)
