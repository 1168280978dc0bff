"""What a client of Bedrock adds to the first token, and what an event costs: ours beside its alternatives, in one run.

    .venv/bin/python benchmarks/first_token.py [--json FILE]

Every client asks the same local stand-in the same question, 1, 50 and 200 times at once, with its connections opened by
a round that is not counted. The clients take turns; what is printed is the median over the repetitions.

after the stamp   from the moment the first text left the stand-in until this process holds it (p50, p99)
in all            from the start of the query until then, less the time the stand-in itself took (p50, p99): waiting for
                  a connection, signing and sending are in it
CPU per event     processor time of this process, all threads, by the number of events read

The whole path is the same through gateway, orchestrator and our client: to the moment the first text is on the client; "in
all" counts from the client's send, less the time from asking the model to its first token. The gateway, the orchestrator, the
model and all clients share this machine.

Nothing here passes or fails; both processors of a small machine are shared with the stand-in itself.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import boto3
import msgspec
import numpy as np
import uvloop
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.config import Config
from tqdm.auto import tqdm

from mangalib.local.stack import Stack, running_stack
from mangalib.serving.aws import Signer
from mangalib.serving.bedrock import BedrockRuntime, ClaudeRequest, Turn, bedrock_endpoint, bedrock_pool
from mangalib.serving.client import Client
from mangalib.serving.messages import Chunk, encode
from mangalib.serving.stream import StreamMachine

LEVELS = (1, 50, 200)
REPETITIONS = 3
QUESTION = "Compare One Piece and Naruto for me"
BODY = ClaudeRequest(400, [Turn("user", QUESTION)], anthropic_version="bedrock-2023-05-31")
JSON_BODY = json.dumps(msgspec.to_builtins(BODY))
# A blocking client answers one after another; more than this many would only make the run long.
BLOCKING_AT_MOST = 50


@dataclass
class Query:
    """One query as a client saw it; seconds of the monotonic clock, which all processes of a machine share."""

    started_s: float
    first_seen_s: float = 0.0
    first_sent_s: float = 0.0
    model_ms: float = 0.0
    events: int = 0

    def take(self, event: dict[str, Any]) -> None:
        """Note what one event tells."""
        self.events += 1
        if event["type"] == "content_block_delta" and not self.first_seen_s:
            self.first_seen_s, self.first_sent_s = time.monotonic(), event["local_sent_at_s"]
        if event["type"] == "message_stop":
            self.model_ms = event["amazon-bedrock-invocationMetrics"]["firstByteLatency"]


Ask = Callable[[], Awaitable[Query]]


def _read_all(client: Any, query: Query) -> Query:
    answer = client.invoke_model_with_response_stream(modelId=_model, body=JSON_BODY)
    for event in answer["body"]:
        query.take(json.loads(event["chunk"]["bytes"]))
    return query


_model = ""


def _boto3_client(stack: Stack) -> Any:
    return boto3.client(
        "bedrock-runtime",
        region_name=stack.settings.region,
        endpoint_url=stack.addresses["bedrock_url"],
        verify=stack.addresses["bedrock_ca"],
        config=Config(max_pool_connections=max(LEVELS)),
    )


@asynccontextmanager
async def blocking_boto3(stack: Stack) -> AsyncIterator[Ask]:
    """boto3 read on the event loop itself."""
    client = _boto3_client(stack)
    asked_s: dict[str, float] = {}

    async def ask() -> Query:
        # All queries of a round are asked together; that the loop is blocked must not hide the wait.
        started = asked_s.setdefault("round", time.monotonic())
        await asyncio.sleep(0)
        return _read_all(client, Query(started))

    ask.new_round = asked_s.clear  # type: ignore[attr-defined]
    yield ask
    client.close()


@asynccontextmanager
async def threaded_boto3(stack: Stack) -> AsyncIterator[Ask]:
    """boto3, a thread for each stream."""
    client = _boto3_client(stack)
    with ThreadPoolExecutor(max(LEVELS)) as threads:

        async def ask() -> Query:
            return await asyncio.get_running_loop().run_in_executor(threads, _read_all, client, Query(time.monotonic()))

        yield ask
    client.close()


@asynccontextmanager
async def aiobotocore(stack: Stack) -> AsyncIterator[Ask]:
    """aiobotocore's client."""
    os.environ["AWS_CA_BUNDLE"] = stack.addresses["bedrock_ca"]
    async with get_session().create_client(
        "bedrock-runtime",
        region_name=stack.settings.region,
        endpoint_url=stack.addresses["bedrock_url"],
        verify=stack.addresses["bedrock_ca"],
        config=AioConfig(max_pool_connections=max(LEVELS)),
    ) as client:

        async def ask() -> Query:
            query = Query(time.monotonic())
            answer = await client.invoke_model_with_response_stream(modelId=_model, body=JSON_BODY)
            async for event in answer["body"]:
                query.take(json.loads(event["chunk"]["bytes"]))
            return query

        yield ask


@asynccontextmanager
async def ours(stack: Stack) -> AsyncIterator[Ask]:
    """Warm pool, lean transport, streaming machine, frames encoded: all but the post to the gateway."""
    settings = stack.settings
    endpoint = bedrock_endpoint(settings)
    async with bedrock_pool(endpoint, settings) as pool:
        signer = Signer(boto3.Session(region_name=settings.region), settings.region)
        bedrock = BedrockRuntime(pool, signer, endpoint, settings)

        async def ask() -> Query:
            query = Query(time.monotonic())
            machine, seq = StreamMachine(batch_size=settings.chunk_batch_size), 0
            machine.invoked()
            async with bedrock.stream(_model, BODY) as stream:
                async for events in stream:
                    machine.receive(events, 0.0)
                    text = machine.take()
                    if text is not None:
                        encode(Chunk(text, "benchmark", seq))
                        seq += 1
                    query.events += len(events)
                    if machine.has_text and not query.first_seen_s:
                        query.first_seen_s = time.monotonic()
                        first = next(event for event in events if event.type == "content_block_delta")
                        query.first_sent_s = first.local_sent_at_s or 0.0
                    if events[-1].metrics is not None:
                        query.model_ms = events[-1].metrics.first_byte_latency
            return query

        yield ask


CLIENTS = {
    "boto3, blocking the loop": blocking_boto3,
    "boto3 in threads": threaded_boto3,
    "aiobotocore": aiobotocore,
    "ours": ours,
}


async def one_round(ask: Ask, at_once: int) -> dict[str, float]:
    """Ask ``at_once`` times together; milliseconds, and microseconds of CPU an event."""
    getattr(ask, "new_round", lambda: None)()
    cpu_s = time.process_time()
    queries = await asyncio.gather(*(ask() for _ in range(at_once)))
    cpu_s = time.process_time() - cpu_s
    after_stamp = [(query.first_seen_s - query.first_sent_s) * 1000 for query in queries]
    in_all = [(query.first_seen_s - query.started_s) * 1000 - query.model_ms for query in queries]
    return {
        **_percentiles("stamp", after_stamp),
        **_percentiles("all", in_all),
        "cpu_us_per_event": cpu_s / sum(query.events for query in queries) * 1e6,
    }


async def measure(stack: Stack) -> list[dict[str, Any]]:
    """All clients at all levels; the clients take turns within each repetition."""
    rounds: dict[tuple[str, int], list[dict[str, float]]] = {}
    plan = [(level, repetition, name) for level in LEVELS for repetition in range(REPETITIONS) for name in CLIENTS]
    for level, repetition, name in tqdm(plan, desc="rounds"):
        if name.startswith("boto3, blocking") and (level > BLOCKING_AT_MOST or (level > 1 and repetition)):
            continue
        async with CLIENTS[name](stack) as ask:
            if not name.startswith("boto3, blocking"):
                await one_round(ask, level)
            repeat = 4 if level == 1 else 1
            rounds.setdefault((name, level), []).extend([await one_round(ask, level) for _ in range(repeat)])
    return [
        {
            "client": name,
            "at_once": level,
            "rounds": len(results),
            **{key: median(r[key] for r in results) for key in results[0]},
            "cpu_us_spread": [min(r["cpu_us_per_event"] for r in results), max(r["cpu_us_per_event"] for r in results)],
        }
        for (name, level), results in rounds.items()
    ]


async def whole_path(stack: Stack) -> list[dict[str, Any]]:
    """The same through gateway, orchestrator and our client, for a question that needs no look-up."""
    rows = []
    for at_once in LEVELS:
        after_stamp, outside_model = [], []
        async with AsyncExitStack() as clients:
            everybody = []
            for number in range(at_once):
                token = stack.token_for(f"customer-{number % 40 + 1:03d}")
                client = Client(stack.addresses["websocket_url"], token, settings=stack.settings)
                everybody.append(await clients.enter_async_context(client))
            for turn in range(REPETITIONS + 1):
                asked = [f"Hello there, I am guest {turn}.{number}" for number in range(at_once)]
                answers = await asyncio.gather(*map(_first_token_at, everybody, asked))
                if turn:  # the first one warms up
                    transcripts = await asyncio.to_thread(stack.local, "bedrock", "GET", "transcripts")
                    sent_s = {entry["question"]: entry["first_text_sent_at_s"] for entry in transcripts}
                    after_stamp += [
                        (at_s - sent_s[text]) * 1000 for text, (at_s, _) in zip(asked, answers, strict=True)
                    ]
                    outside_model += [outside_ms for _, outside_ms in answers]
        rows.append(
            {
                "client": "the whole path",
                "at_once": at_once,
                **_percentiles("stamp", after_stamp),
                **_percentiles("all", outside_model),
            }
        )
    return rows


async def _first_token_at(client: Client, text: str) -> tuple[float, float]:
    """When the first text was on the client, and how long it took beyond the model's own time."""
    started_s = time.monotonic()
    reply = await client.answer(text, intent="greeting")
    assert reply.metadata is not None
    assert reply.first_token_ms is not None
    timeline = reply.metadata.timeline
    model_ms = timeline["first_token"] - timeline["model_asked"]
    return started_s + reply.first_token_ms / 1000, reply.first_token_ms - model_ms


def _percentiles(name: str, values: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(values, [50, 99])
    return {f"{name}_p50_ms": float(p50), f"{name}_p99_ms": float(p99)}


def report(rows: list[dict[str, Any]]) -> str:
    """The table."""
    lines = [
        "at once  client                     after the stamp, ms     in all, ms             CPU per event, µs",
        "                                       p50      p99          p50      p99        median (min-max)",
    ]
    for row in rows:
        line = (
            f"{row['at_once']:7d}  {row['client']:25s} {row['stamp_p50_ms']:8.1f} {row['stamp_p99_ms']:8.1f}   "
            f"{row['all_p50_ms']:10.1f} {row['all_p99_ms']:8.1f}"
        )
        if "cpu_us_per_event" in row:
            low, high = row["cpu_us_spread"]
            line += f"   {row['cpu_us_per_event']:8.0f} ({low:.0f}-{high:.0f})"
        lines.append(line)
    lines.append(f"A loop that blocks serves one after another; it was left out above {BLOCKING_AT_MOST} at once.")
    return "\n".join(lines)


def main() -> None:
    global _model
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    # A full collection of garbage in this measuring process would be taken for somebody's delay.
    gc.freeze()
    # Short waits for the first token keep the run short; what is measured is what comes on top of them.
    with running_stack(
        local_haiku_first_token_ms=100, local_cold_max_ms=0, local_cold_min_ms=0, capacity_answers=2 * max(LEVELS)
    ) as stack:
        os.environ["AWS_ACCESS_KEY_ID"] = stack.addresses["aws_access_key_id"]
        os.environ["AWS_SECRET_ACCESS_KEY"] = stack.addresses["aws_secret_access_key"]
        _model = stack.settings.haiku_model_id
        rows = uvloop.run(measure(stack))
        whole = uvloop.run(whole_path(stack))
    print(f"{platform.platform()}, {os.cpu_count()} processors, Python {platform.python_version()}")
    print(report(rows + whole))
    if options.json:
        options.json.write_text(json.dumps(rows + whole, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
