"""Ablation: what each of the ten optimisations saves, measured in one run by switching it off alone.

Blocks with one optimisation off and blocks with all on follow each other in an order that is shuffled in each round; every
block asks the same questions. The comparison pairs the same question in the same round, so that drift affects both sides
alike.
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
from mangalib.settings import AblationSettings, SavingSettings

ALL_ON = "all on"
ACTIVE_WITHIN_S = 20.0
SIMPLE, RETRIEVAL, SHARED, AFTER_A_PAUSE = "simple", "retrieval", "shared", "after a pause"
FOLLOW_UP, TRENDING = "follow-up", "trending"


@dataclass(frozen=True)
class Optimisation:
    """One of the ten: the kind of question that shows its saving, the measured column, its unit, and the saving that the
    specification expects."""

    name: str
    title: str
    question: str
    measure: str
    unit: str
    expected: float


def the_ten(settings: SavingSettings) -> list[Optimisation]:
    """The ten optimisations in the order of the specification."""
    first, total = "first_token_ms", "total_ms"
    batching = 100 * settings.expected_batching_saving_share
    rows = [
        ("warm_pool", "warm connection pool", SIMPLE, first, settings.expected_warm_pool_saving_ms),
        ("preloaded_prompts", "pre-loaded prompts", SIMPLE, first, settings.expected_prompts_saving_ms),
        ("model_warmup", "model warm-up", AFTER_A_PAUSE, first, settings.expected_warmup_saving_ms),
        ("parallel_fan_out", "parallel fan-out", RETRIEVAL, first, settings.expected_fan_out_saving_ms),
        ("chunk_batching", "chunk batching", RETRIEVAL, "overhead_bytes", batching),
        ("follow_up_prediction", "follow-up prediction", FOLLOW_UP, total, settings.expected_follow_up_saving_ms),
        ("status_messages", "status messages", RETRIEVAL, "first_sign_ms", settings.expected_status_saving_ms),
        ("model_routing", "model routing by intent", SIMPLE, first, settings.expected_routing_saving_ms),
        ("semantic_cache", "Redis semantic cache", SHARED, total, settings.expected_cache_saving_ms),
        ("trending_answers", "pre-computed trending answers", TRENDING, total, settings.expected_trending_saving_ms),
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
    settings: AblationSettings,
    *,
    rounds: int,
    pause_s: float,
    think_s: float,
    rng: random.Random,
) -> pd.DataFrame:
    """One row per question and block: ``round, variant`` (``all on``, or what is off), ``kind, question, first_token_ms,
    total_ms, first_sign_ms, overhead_bytes``.

    ``questions`` are by kind: simple and retrieval (personal ones, which no cache may answer), shared (answered by the
    cache), trending (about a title), and after a pause: asked after ``pause_s`` without a question, longer than a model
    stays warm. In each pair of ``follow_ups`` the second question is asked ``think_s`` after the answer to the first, and
    measured. A release is created for each variant; afterwards the one that was active is activated again, also after an
    interruption.
    """
    before = await asyncio.to_thread(lambda: releases.pointer().active)
    optimisations = the_ten(settings)
    variants = {ALL_ON: await _release(releases, ())}
    for optimisation in optimisations:
        variants[optimisation.name] = await _release(releases, (optimisation.name,))
    rows: list[dict[str, object]] = []
    order = list(variants)
    try:
        with tqdm(total=rounds * len(order), desc="blocks", leave=False) as bar:
            for number in range(rounds):
                rng.shuffle(order)
                for variant in order:
                    await asyncio.to_thread(releases.activate, variants[variant], "ablation")
                    await asyncio.sleep(settings.release_refresh_s)
                    await _wait_until_active(connect, variants[variant])
                    pausing = variant in {ALL_ON, "model_warmup"}
                    for row in await _block(connect, questions, follow_ups, think_s, pause_s if pausing else None):
                        rows.append({"round": number, "variant": variant, **row})
                    bar.update()
    finally:
        await asyncio.to_thread(releases.activate, before or variants[ALL_ON], "after the ablation")
    return pd.DataFrame(rows)


def savings(measured: pd.DataFrame, settings: SavingSettings) -> pd.DataFrame:
    """One row per optimisation: ``optimisation, what, unit, pairs, saving, low, high, expected``.

    ``saving`` is the mean difference, over pairs of the same question in the same round, between the optimisation off and
    all on, with Student's 95 % interval; in per cent of the former where the unit is ``%``.
    """
    rows = []
    for tested in the_ten(settings):
        row = {"optimisation": tested.name, "what": tested.title, "unit": tested.unit, "expected": tested.expected}
        rows.append(row | _saving(measured, tested))
    columns = ["optimisation", "what", "unit", "pairs", "saving", "low", "high", "expected"]
    return pd.DataFrame(rows).reindex(columns=columns)


def _saving(measured: pd.DataFrame, tested: Optimisation) -> dict[str, float]:
    answers = measured[measured["kind"] == tested.question]
    table = answers.pivot_table(index=["round", "question"], columns="variant", values=tested.measure, sort=True)
    pairs = table[[tested.name, ALL_ON]].dropna()
    off, on = (pairs[name].to_numpy(dtype=np.float64) for name in (tested.name, ALL_ON))
    saved = 100 * (off - on) / off if tested.unit == "%" else off - on
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


async def _wait_until_active(connect: Callable[[], Client], number: int) -> None:
    deadline_s = time.monotonic() + ACTIVE_WITHIN_S
    async with connect() as client:
        while time.monotonic() < deadline_s:
            reply = await client.answer("Hello", intent="greeting")
            if reply.metadata is not None and reply.metadata.release == number:
                return
    raise TransportTimeoutError(f"release {number}: no answer from it within {ACTIVE_WITHIN_S:g} s of its activation")


async def _block(
    connect: Callable[[], Client],
    questions: Mapping[str, list[str]],
    follow_ups: Sequence[tuple[str, str]],
    think_s: float,
    pause_s: float | None,
) -> list[dict[str, object]]:
    """Every question once: first those after a pause, one by one, then the others concurrently, each on its own connection."""
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
    """Bytes on the wire beyond the answer's text: the JSON around it and the WebSocket headers."""
    chunks = [received.frame for received in reply.frames if isinstance(received.frame, Chunk)]
    wire = sum(len(encode(chunk)) + (2 if len(encode(chunk)) < 126 else 4) for chunk in chunks)
    return wire - len(reply.text.encode())
