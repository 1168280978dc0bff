"""Item 4: a second request when the first token is late: what it does to the tail, and what it costs.

Three questions in two hundred meet a model that is slow by two seconds. Each policy asks the same stand-in as often, forty at
once, through the product's own Bedrock client; the policies take turns. Extra invocations are counted by the stand-in; extra cost
assumes that each loser's question is billed and its answer is not, since it is closed before its first text. "At once"
always asks twice: the best that any number of second requests could do.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import boto3
import numpy as np
import uvloop
from tqdm.auto import tqdm

from benchmarks.speed.tables import Table
from mangalib.aws import (
    BedrockRuntime,
    ClaudeRequest,
    Hedge,
    Signer,
    Turn,
    bedrock_endpoint,
    bedrock_pool,
    hedged_stream,
)
from mangalib.local import Stack, running_stack
from mangalib.settings import Settings

REQUESTS, AT_ONCE, ROUNDS = 1_000, 40, 3
SLOW_SHARE, SLOW_BY_MS, SLOW_MS = 0.015, 2_000, 1_000
REQUEST = ClaudeRequest(12, [Turn("user", "Hello there")], system="You are a manga shop's assistant.")
POLICIES: dict[str, dict[str, float]] = {
    "none": {"hedge_share": 0},
    "ours, budget 2 %": {},
    "ours, budget 5 %": {"hedge_share": 0.05},
    "at once": {"hedge_share": 1, "hedge_quantile": 1e-9, "hedge_burst": REQUESTS},
}


async def one_round(bedrock: BedrockRuntime, hedge: Hedge, model_id: str, requests: int, bar: Any) -> list[float]:
    """First-token times in ms, of answers that are left after their first text."""
    found, left = [], iter(range(requests))

    async def ask() -> None:
        for _ in left:
            started_s = time.monotonic()
            async with hedged_stream(bedrock, hedge, model_id, REQUEST) as stream:
                found.append((time.monotonic() - started_s) * 1000)
                async for _events in stream:
                    pass
            bar.update()

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(ask())
    return found


async def measure(stack: Stack) -> list[dict[str, Any]]:
    """All policies, in turns."""
    settings = stack.settings
    endpoint, signer = bedrock_endpoint(settings), Signer(boto3.Session(region_name=settings.region), settings.region)
    times: dict[str, list[float]] = {name: [] for name in POLICIES}
    cost: dict[str, list[int]] = {name: [0, 0, 0] for name in POLICIES}
    async with bedrock_pool(endpoint, settings) as pool:
        bedrock = BedrockRuntime(pool, signer, endpoint, settings)
        hedges = {name: Hedge(_with(settings, changes)) for name, changes in POLICIES.items()}
        with tqdm(
            total=len(POLICIES) * (ROUNDS * REQUESTS + 2 * settings.hedge_answers), desc="requests", leave=False
        ) as bar:
            for hedge in hedges.values():  # each hedge records its first first-token times
                await one_round(bedrock, hedge, settings.haiku_model_id, 2 * settings.hedge_answers, bar)
            for _ in range(ROUNDS):
                for name, hedge in hedges.items():
                    before = await asyncio.to_thread(stack.bedrock_stats)
                    times[name] += await one_round(bedrock, hedge, settings.haiku_model_id, REQUESTS, bar)
                    after = await asyncio.to_thread(stack.bedrock_stats)
                    for at, figure in enumerate(("invocations", "input_tokens", "output_tokens")):
                        cost[name][at] += after[figure] - before[figure]
    base = cost["none"]
    read_usd = base[1] * settings.haiku_input_usd_per_mtok
    read_share = read_usd / (read_usd + base[2] * settings.haiku_output_usd_per_mtok)
    return [
        {
            "policy": name,
            **{f"p{q}_ms": float(np.percentile(times[name], q)) for q in (50, 95, 99, 99.9)},
            "slow": float(np.mean(np.array(times[name]) > SLOW_MS)),
            "extra_invocations": cost[name][0] / base[0] - 1,
            "extra_usd": (cost[name][0] / base[0] - 1) * read_share,
        }
        for name in POLICIES
    ]


def _with(settings: Settings, changes: dict[str, float]) -> Settings:
    return settings.model_copy(update=changes)


def tables() -> list[Table]:
    """The table."""
    with running_stack(local_cold_max_ms=0, local_cold_min_ms=0, keep_alive_s=600, haiku_ping_every_s=100_000) as stack:
        for name in ("aws_access_key_id", "aws_secret_access_key"):
            os.environ[name.upper()] = stack.addresses[name]
        fault = {"kind": "slow_first_token", "delay_ms": SLOW_BY_MS, "probability": SLOW_SHARE, "times": 10**9}
        stack.local("bedrock", "POST", "faults", fault)
        found = uvloop.run(measure(stack))
    rows = [
        [
            row["policy"],
            *(f"{row[f'p{q}_ms']:,.0f}" for q in (50, 95, 99, 99.9)),
            f"{row['slow']:.2%}",
            f"{row['extra_invocations']:.1%}",
            f"{row['extra_usd']:.1%}",
        ]
        for row in found
    ]
    over = f"over {SLOW_MS / 1000:g} s"
    columns = ["second request", "first token p50, ms", "p95", "p99", "p99.9", over, "extra invocations", "extra cost"]
    notes = [
        f"{REQUESTS * ROUNDS:,} requests each, {SLOW_SHARE:.1%} of them slow by {SLOW_BY_MS / 1000:g} s; the policies take "
        f"turns, {ROUNDS} rounds. Extra cost: the question of each extra invocation, as no text of its answer was written yet."
    ]
    return [Table("hedging", "4. A second request when the first token is late", columns, rows, notes)]
