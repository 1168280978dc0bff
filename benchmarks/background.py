"""What background work costs live queries: the same questions with follow-up prediction on and off, alternating in one run.

    .venv/bin/python benchmarks/background.py [--blocks 8] [--queries 40] [--at-once 8]

Every question is the first of its session, so none is answered ahead; with prediction on, each is followed by as much
background work as its connections can carry. The random variation of the local model is off, so any difference comes from
the background work. Prints figures; asserts nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random

import numpy as np
from tqdm.auto import tqdm

from mangalib.aws import DocumentTable, dynamodb_client
from mangalib.client import Client
from mangalib.domain import Release, ReleaseStore
from mangalib.errors import ReleaseError
from mangalib.local import Stack, running_stack

QUESTIONS = (
    "Recommend me a good fantasy manga",
    "Where is my order?",
    "Recommend a romance manga",
    "Track my order please",
)
CONNECTED_S = 3.0
# Every follow-up is worth generating, so the background connections always have work.
ALWAYS_WORTHWHILE = {
    "second_saved_usd": 1.0,
    "follow_up_candidates": 12,
    "precompute_hour_tokens": 10_000_000,
    "follow_up_session_tokens": 100_000,
}
NO_VARIATION = dict.fromkeys(
    ["local_first_token_sigma", "local_inter_token_sigma", "local_knn_sigma", "local_daily_cycle"], 0
)


async def first_tokens_ms(stack: Stack, queries: int, at_once: int) -> list[float]:
    found: list[float] = []
    waiting = iter(range(queries))

    async def customer() -> None:
        for number in waiting:
            token = stack.token_for(f"customer-{number % 40 + 1:03d}")
            async with Client(stack.addresses["websocket_url"], token, settings=stack.settings) as client:
                reply = await client.answer(QUESTIONS[number % len(QUESTIONS)])
                found.append(reply.first_token_ms)
                await asyncio.sleep(CONNECTED_S)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(customer())
    return found


async def compare(stack: Stack, releases: ReleaseStore, blocks: int, queries: int, at_once: int) -> None:
    numbers = {
        name: releases.create(Release().changed(name, {}, {}, None, off=off)).number
        for name, off in (("with", ()), ("without", ("follow_up_prediction",)))
    }
    found: dict[str, list[list[float]]] = {name: [] for name in numbers}
    tokens: dict[str, int] = dict.fromkeys(numbers, 0)
    rng = random.Random(1)
    await first_tokens_ms(stack, queries, at_once)
    for _ in tqdm(range(blocks // 2), desc="pairs of blocks", leave=False):
        for name in rng.sample(sorted(numbers), 2):
            await asyncio.to_thread(releases.activate, numbers[name], "background benchmark")
            await asyncio.sleep(1.0)
            before = stack.bedrock_stats()["output_tokens"]
            found[name].append(await first_tokens_ms(stack, queries, at_once))
            tokens[name] += stack.bedrock_stats()["output_tokens"] - before
    print(f"\n{'first token, ms':20}{'p50':>8}{'p95':>8}{'p99':>8}{'tokens written':>18}")
    for name, runs in found.items():
        merged = np.concatenate(runs)
        p50, p95, p99 = np.quantile(merged, [0.5, 0.95, 0.99])
        print(f"{name + ' background':20}{p50:8.1f}{p95:8.1f}{p99:8.1f}{tokens[name]:18}")
    ratios = [np.quantile(a, 0.95) / np.quantile(b, 0.95) for a, b in zip(found["with"], found["without"], strict=True)]
    print(
        f"p95 with / without: median of {len(ratios)} pairs {np.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--at-once", type=int, default=8)
    options = parser.parse_args()
    with running_stack(quiet=True, release_refresh_s=0.2, **ALWAYS_WORTHWHILE, **NO_VARIATION) as stack:
        for name in ("aws_access_key_id", "aws_secret_access_key"):
            os.environ[name.upper()] = stack.addresses[name]
        releases = ReleaseStore(
            DocumentTable(
                dynamodb_client(stack.settings), stack.settings.releases_table, key="release", error=ReleaseError
            )
        )
        asyncio.run(compare(stack, releases, options.blocks, options.queries, options.at_once))


if __name__ == "__main__":
    main()
