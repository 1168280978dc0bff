"""One benchmark run from workload to store, also when it is interrupted."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from mangalib.benchmark import BenchmarkInterruptedError, Store, run_once
from mangalib.benchmark.load import Conversation
from mangalib.benchmark.load.workload import Question
from mangalib.client import Client
from mangalib.domain.intents import Intent
from mangalib.errors import DataError, MangaError
from mangalib.local.stack import Stack


def every(gap_s: float, count: int) -> list[Conversation]:
    return [Conversation([Question(n * gap_s, Intent.GREETING, "Hello", n)]) for n in range(count)]


async def test_a_run_is_in_the_store_and_reported(stack: Stack, tmp_path: Path) -> None:
    settings = stack.settings.model_copy(update={"connect_ahead_s": 0.5, "discarded_per_intent": 0})
    connect = partial(Client, stack.addresses["websocket_url"], stack.addresses["token"], settings=settings)
    store = Store(str(tmp_path), settings)
    run = await run_once(connect, every(0.05, 6), store, settings, progress=False)
    assert (run.planned, len(run.samples)) == (6, 6)
    assert store.newest() == (run.run_id, run.started_at)
    assert run.file.startswith(str(tmp_path))
    assert list(run.percentiles()["answers"]) == [6, 6]
    with pytest.raises(DataError, match="correct the clock"):
        yesterday = settings.model_copy(update={"clock_tolerance_s": -86_400.0})
        await run_once(connect, every(0.05, 1), store, yesterday, progress=False)


async def test_an_interrupted_run_keeps_what_was_answered(stack: Stack, tmp_path: Path) -> None:
    settings = stack.settings.model_copy(update={"connect_ahead_s": 0.2, "discarded_per_intent": 0})
    connections = itertools.count(1)

    def connect() -> Client:
        if next(connections) == cancel_at:
            task.cancel()
        return Client(stack.addresses["websocket_url"], stack.addresses["token"], settings=settings)

    store = Store(str(tmp_path), settings)
    cancel_at = 60
    task = asyncio.create_task(run_once(connect, every(0.05, 300), store, settings, progress=False))
    with pytest.raises(BenchmarkInterruptedError, match="of 300 questions are kept") as raised:
        await task
    kept = raised.value.run
    assert 0 < len(kept.samples) < 300
    now = datetime.now(UTC)
    assert len(store.load(now - timedelta(hours=1), now + timedelta(hours=1)).samples) == len(kept.samples)


async def test_a_run_that_is_interrupted_before_the_first_answer_stores_nothing(stack: Stack, tmp_path: Path) -> None:
    settings = stack.settings

    def connect() -> Client:
        task.cancel()
        return Client(stack.addresses["websocket_url"], stack.addresses["token"], settings=settings)

    store = Store(str(tmp_path), settings)
    task = asyncio.create_task(run_once(connect, every(0.05, 3), store, settings, progress=False))
    with pytest.raises(MangaError, match="nothing was measured"):
        await task
    assert store.newest() is None
