"""How much warm connections, prompts and models save: each is timed warm and cold, alternately, in one run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pandas as pd
from tqdm.auto import tqdm

from mangalib.aws import HttpConnection, bedrock_endpoint, bedrock_pool
from mangalib.domain import Intent
from mangalib.errors import SettingsError
from mangalib.lab.laboratory import Laboratory
from mangalib.local import Stack
from mangalib.serving import PromptStore

Action = Callable[[], Awaitable[object]]
Row = tuple[str, str, float | None]


async def compare_warm_and_cold(lab: Laboratory, *, samples: int, question: str) -> pd.DataFrame:
    """Columns ``what`` (connection, prompt, model), ``state`` (warm, cold), ``ms``; ``samples`` rows of each pair.

    A model is made cold by shortening the local latency model's ``cold_after_s``, so a local stack is needed.
    Raises ``SettingsError`` where ``lab`` has none.
    """
    if lab.stack is None:
        raise SettingsError(
            "MANGA_WEBSOCKET_URL is set; comparing warm and cold models needs the local stack: unset it"
        )
    resources = await _time_connections_and_prompts(lab, samples)
    return pd.DataFrame(
        resources + await _time_models(lab, lab.stack, samples, question), columns=["what", "state", "ms"]
    )


async def _time_connections_and_prompts(lab: Laboratory, samples: int) -> list[Row]:
    settings, dynamodb = lab.settings, lab.dynamodb
    endpoint = bedrock_endpoint(settings)
    prompts = PromptStore(dynamodb, settings.prompts_table)
    await prompts.refresh()

    async def lease() -> None:
        async with pool.lease():
            return

    async def connect() -> None:
        (await HttpConnection.open(endpoint, timeout_s=settings.connect_timeout_s)).close()

    async def look_up() -> str:
        return prompts.lookup(Intent.FAQ)

    async def read_table() -> object:
        key = {"intent": Intent.FAQ.value, "version": 2}
        return await asyncio.to_thread(dynamodb.get_item, TableName=settings.prompts_table, Key=key)

    rows: list[Row] = []
    async with bedrock_pool(endpoint, settings) as pool:
        pairs: dict[str, tuple[Action, Action]] = {"connection": (lease, connect), "prompt": (look_up, read_table)}
        for _ in tqdm(range(samples), desc="connection and prompt", leave=False):
            for what, (warm, cold) in pairs.items():
                rows.append((what, "warm", await _timed_ms(warm)))
                rows.append((what, "cold", await _timed_ms(cold)))
    return rows


async def _time_models(lab: Laboratory, stack: Stack, samples: int, question: str) -> list[Row]:
    usual_s = lab.settings.local_cold_after_s
    rows: list[Row] = []
    async with lab.client() as client:
        for _ in tqdm(range(samples), desc="model", leave=False):
            for state, cold_after_s in (("warm", usual_s), ("cold", 1e-6)):
                await asyncio.to_thread(stack.local, "bedrock", "POST", "profile", {"cold_after_s": cold_after_s})
                reply = await client.answer(question)
                rows.append(("model (first token)", state, reply.first_token_ms))
    await asyncio.to_thread(stack.local, "bedrock", "POST", "profile", {"cold_after_s": usual_s})
    return rows


async def _timed_ms(action: Action) -> float:
    started = time.perf_counter()
    await action()
    return (time.perf_counter() - started) * 1000
