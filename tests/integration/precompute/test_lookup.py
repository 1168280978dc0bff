"""What one look-up of a precomputed answer costs, counted at the sockets to Redis and at boto3."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio.connection import AbstractConnection

from mangalib.local.stack import Stack
from mangalib.precompute.service import Precompute
from mangalib.serving.retrieval import CustomerData
from tests.conftest import Connect, orchestrator_here


async def test_a_cached_title_answer_costs_one_round_trip_to_redis(
    stack: Stack, plain: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    task: list[asyncio.Task[Any] | None] = []
    find, send = Precompute.find, AbstractConnection.send_packed_command

    async def counted_find(self: Precompute, context: Any) -> Any:
        sent.append(0)
        task.append(asyncio.current_task())
        try:
            return await find(self, context)
        finally:
            task.clear()

    async def counted_send(self: AbstractConnection, *arguments: Any, **options: Any) -> None:
        if task and asyncio.current_task() is task[0]:
            sent[-1] += 1
        await send(self, *arguments, **options)

    monkeypatch.setattr(Precompute, "find", counted_find)
    monkeypatch.setattr(AbstractConnection, "send_packed_command", counted_send)
    sources = []
    async with orchestrator_here(stack, monkeypatch, answers_ahead=True, held_out_share=0), plain() as client:
        for _ in range(3):
            frames = await client.frames(await client.query("How much does Berserk cost?"))
            sources.append(frames[-1]["metadata"]["source"])
    assert sources[0] == "model"
    assert sources[1:] == ["semantic_cache"] * 2
    assert sent[-1] == 1


async def test_a_route_reads_only_what_it_needs_of_a_customer_and_side_by_side(
    stack: Stack, plain: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, at_once = 0, 0
    reads: list[str] = []
    in_thread = CustomerData._in_thread

    async def watched(self: CustomerData, function: Any, *arguments: Any) -> Any:
        nonlocal running, at_once
        reads.append(getattr(function, "__name__", "put"))
        running += 1
        at_once = max(at_once, running)
        try:
            return await in_thread(self, function, *arguments)
        finally:
            running -= 1

    monkeypatch.setattr(CustomerData, "_in_thread", watched)
    async with orchestrator_here(stack, monkeypatch), plain() as client:
        await client.frames(await client.query("Where is it?", intent="product_search"))
        assert reads[0] == "_history"
        assert not {"_profile", "_orders"} & set(reads)
        reads.clear()
        await client.frames(await client.query("What should I read?", intent="recommendation"))
    assert {"_history", "_profile", "_orders"} <= set(reads)
    assert at_once >= 3
