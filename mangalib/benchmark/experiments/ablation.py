"""The ten optimisations, each switched off alone, beside all of them on: what each one saves, in one run.

Blocks with one optimisation off, and blocks with all on, take turns in an order that is drawn anew in each round; every
block asks the same questions. What is compared is the same question in the same round, so that what drifts falls on both
sides alike.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import stdtrit
from tqdm.auto import tqdm

from mangalib.benchmark.detection.series import Floats
from mangalib.client import Client, Reply
from mangalib.domain import Release, ReleaseStore
from mangalib.errors import TransportTimeoutError
from mangalib.protocol import Chunk, encode
from mangalib.settings import Settings

ALL_ON = "all on"
FOLLOWED_WITHIN_S = 20.0
SIMPLE, RETRIEVAL, SHARED, AFTER_A_PAUSE = "simple", "retrieval", "shared", "after a pause"
FOLLOW_UP, TRENDING = "follow-up", "trending"


@dataclass(frozen=True)
class Optimisation:
    """One of the ten: which questions show it, in what unit, and what the specification expects of it there."""

    name: str
    title: str
    question: str
    measure: str
    unit: str
    expected: float


def the_ten(settings: Settings) -> list[Optimisation]:
    """In the order of the specification."""
    first, whole = "first_token_ms", "total_ms"
    batching = 100 * settings.expected_batching_saving_share
    rows = [
        ("warm_pool", "warm connection pool", SIMPLE, first, settings.expected_warm_pool_saving_ms),
        ("preloaded_prompts", "pre-loaded prompts", SIMPLE, first, settings.expected_prompts_saving_ms),
        ("model_warmup", "model warm-up", AFTER_A_PAUSE, first, settings.expected_warmup_saving_ms),
        ("parallel_fan_out", "parallel fan-out", RETRIEVAL, first, settings.expected_fan_out_saving_ms),
        ("chunk_batching", "chunk batching", RETRIEVAL, "overhead_bytes", batching),
        ("follow_up_prediction", "follow-up prediction", FOLLOW_UP, whole, settings.expected_follow_up_saving_ms),
        ("status_messages", "status messages", RETRIEVAL, "first_sign_ms", settings.expected_status_saving_ms),
        ("model_routing", "model routing by intent", SIMPLE, first, settings.expected_routing_saving_ms),
        ("semantic_cache", "Redis semantic cache", SHARED, whole, settings.expected_cache_saving_ms),
        ("trending_answers", "pre-computed trending answers", TRENDING, whole, settings.expected_trending_saving_ms),
    ]
    return [
        Optimisation(name, title, kind, measure, "%" if measure == "overhead_bytes" else "ms", expected)
        for name, title, kind, measure, expected in rows
    ]


async def ablate(
    connect: Callable[[], Client],
    releases: ReleaseStore,
    questions: Mapping[str, list[str]],
    follow_ups: Sequence[tuple[str, str]],
    settings: Settings,
    *,
    rounds: int,
    pause_s: float,
    think_s: float,
    rng: random.Random,
) -> pd.DataFrame:
    """One row a question and block: ``round, variant`` (``all on`` or what is off), ``kind, question, first_token_ms, total_ms,
    first_sign_ms, overhead_bytes``.

    ``questions`` are by kind: simple and retrieval (personal ones, which no cache may answer), shared (answered by the
    cache), trending (about a title), and after a pause: asked when nobody has asked anything for ``pause_s``, longer than
    a model stays warm. Of ``follow_ups`` the second is asked ``think_s`` after the answer to the first, and measured.
    Releases are made for it, and the one that was active is active again afterwards, also when it is interrupted.
    """
    before = await asyncio.to_thread(lambda: releases.pointer().active)
    optimisations = the_ten(settings)
    variants = {ALL_ON: await _release(releases, ())}
    for one in optimisations:
        variants[one.name] = await _release(releases, (one.name,))
    rows: list[dict[str, object]] = []
    order = list(variants)
    try:
        with tqdm(total=rounds * len(order), desc="blocks", leave=False) as bar:
            for number in range(rounds):
                rng.shuffle(order)
                for variant in order:
                    await asyncio.to_thread(releases.activate, variants[variant], "ablation")
                    await asyncio.sleep(settings.release_refresh_s)
                    await _until_followed(connect, variants[variant])
                    pausing = variant in {ALL_ON, "model_warmup"}
                    for row in await _block(connect, questions, follow_ups, think_s, pause_s if pausing else None):
                        rows.append({"round": number, "variant": variant, **row})
                    bar.update()
    finally:
        await asyncio.to_thread(releases.activate, before or variants[ALL_ON], "after the ablation")
    return pd.DataFrame(rows)


def savings(measured: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """One row an optimisation: ``optimisation, what, unit, pairs, saving, low, high, expected``.

    ``saving`` is the mean, over pairs of the same question in the same round, of what is measured with the optimisation off
    less that with all on, with Student's 95 % interval; in per cent of the former where the unit is ``%``.
    """
    rows = []
    for one in the_ten(settings):
        line = {"optimisation": one.name, "what": one.title, "unit": one.unit, "expected": one.expected}
        rows.append(line | _saving(measured, one))
    columns = ["optimisation", "what", "unit", "pairs", "saving", "low", "high", "expected"]
    return pd.DataFrame(rows).reindex(columns=columns)


def _saving(measured: pd.DataFrame, one: Optimisation) -> dict[str, float]:
    asked = measured[measured["kind"] == one.question]
    table = asked.pivot_table(index=["round", "question"], columns="variant", values=one.measure, sort=True)
    pairs = table[[one.name, ALL_ON]].dropna()
    off, on = (pairs[name].to_numpy(dtype=np.float64) for name in (one.name, ALL_ON))
    saved = 100 * (off - on) / off if one.unit == "%" else off - on
    mean, half = float(saved.mean()), _half_width(saved)
    return {"pairs": len(saved), "saving": mean, "low": mean - half, "high": mean + half}


def _half_width(values: Floats) -> float:
    n = len(values)
    if n < 2:
        return float("nan")
    return float(stdtrit(n - 1, 0.975) * values.std(ddof=1) / np.sqrt(n))


async def _release(releases: ReleaseStore, off: tuple[str, ...]) -> int:
    wanted = Release().changed(f"ablation: {', '.join(off) or ALL_ON}", {}, {}, None, off=off)
    return (await asyncio.to_thread(releases.create, wanted)).number


async def _until_followed(connect: Callable[[], Client], number: int) -> None:
    deadline_s = time.monotonic() + FOLLOWED_WITHIN_S
    async with connect() as client:
        while time.monotonic() < deadline_s:
            reply = await client.answer("Hello", intent="greeting")
            if reply.metadata is not None and reply.metadata.release == number:
                return
    raise TransportTimeoutError(f"no answer of release {number} within {FOLLOWED_WITHIN_S:g} s of its activation")


async def _block(
    connect: Callable[[], Client],
    questions: Mapping[str, list[str]],
    follow_ups: Sequence[tuple[str, str]],
    think_s: float,
    pause_s: float | None,
) -> list[dict[str, object]]:
    """Every question once, side by side on connections of their own; first those that come after a pause each."""
    rows: list[dict[str, object]] = []
    if pause_s is not None:
        for text in questions[AFTER_A_PAUSE]:
            await asyncio.sleep(pause_s)
            rows.append({"kind": AFTER_A_PAUSE, **await _ask(connect, text)})
    kinds = (SIMPLE, RETRIEVAL, SHARED, TRENDING)
    async with asyncio.TaskGroup() as group:
        tasks = [(kind, group.create_task(_ask(connect, text))) for kind in kinds for text in questions[kind]]
        tasks += [(FOLLOW_UP, group.create_task(_ask_on(connect, *pair, think_s))) for pair in follow_ups]
    return rows + [{"kind": kind, **task.result()} for kind, task in tasks]


async def _ask(connect: Callable[[], Client], question: str) -> dict[str, object]:
    async with connect() as client:
        return _measured(question, await client.answer(question))


async def _ask_on(connect: Callable[[], Client], first: str, second: str, think_s: float) -> dict[str, object]:
    async with connect() as client:
        await client.answer(first)
        await asyncio.sleep(think_s)
        return _measured(second, await client.answer(second))


def _measured(question: str, reply: Reply) -> dict[str, object]:
    return {
        "question": question,
        "first_token_ms": reply.first_token_ms,
        "total_ms": reply.total_ms,
        "first_sign_ms": reply.frames[0].at_ms,
        "overhead_bytes": _overhead_bytes(reply),
    }


def _overhead_bytes(reply: Reply) -> int:
    """Bytes on the wire for the answer's text, beyond the text itself: JSON around it and WebSocket's own header."""
    chunks = [received.frame for received in reply.frames if isinstance(received.frame, Chunk)]
    wire = sum(len(encode(chunk)) + (2 if len(encode(chunk)) < 126 else 4) for chunk in chunks)
    return wire - len(reply.text.encode())
