"""Item 2: ten thousand idle connections: what one costs, whether all are accepted, and whether they slow down 200 who ask.

500 connections come a second. What a session costs is the growth of the orchestrator's resident memory by the number of sessions,
at 1,000 and at 10,000, before it has answered anything. 200 customers then ask at once, five times among the crowd and five times
when it has left; first-token times are from their send to the first text, on the client, the model's 275 ms included.
"""

from __future__ import annotations

import asyncio
import base64
import os
import resource
import time
from statistics import median
from typing import Any, cast
from urllib.parse import urlsplit

import numpy as np
import psutil
import uvloop
from tqdm.auto import tqdm

from benchmarks.speed.customers import CUSTOMERS, customers, token_of
from benchmarks.speed.tables import Table, value_range
from mangalib.client import Client
from mangalib.local import Stack, running_stack

CROWDS = (1_000, 10_000)
ASKING = 200
ROUNDS = 5
NEW_A_SECOND = 500


class Idle(asyncio.Protocol):
    """A WebSocket of the crowd: it connects and then stays idle."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.greeted = asyncio.get_running_loop().create_future()
        self.lost = False
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade (asyncio.Protocol)."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Wait for the greeting (asyncio.Protocol)."""
        # Connected once the server's session frame has arrived, which follows the handshake.
        if not self.greeted.done():
            self._head += data
            if b'"type":"session"' in self._head:
                self.greeted.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that it was refused, or lost (asyncio.Protocol)."""
        self.lost = True
        if not self.greeted.done():
            self.greeted.set_exception(ConnectionError(self._head[:40].decode(errors="replace")))


async def crowd_of(stack: Stack, count: int, crowd: list[Idle]) -> float:
    """Let it grow to ``count``, by ``NEW_A_SECOND``; returns the seconds that took."""
    url = urlsplit(stack.addresses["websocket_url"])
    tokens = [token_of(stack, number) for number in range(CUSTOMERS)]
    loop = asyncio.get_running_loop()
    started_s, new = time.monotonic(), count - len(crowd)
    with tqdm(total=new, desc=f"connecting {count:,}", leave=False) as bar:
        for number in range(new):
            await asyncio.sleep(max(0.0, started_s + number / NEW_A_SECOND - time.monotonic()))
            key = base64.b64encode(os.urandom(16)).decode()
            request = (
                f"GET {url.path}?token={tokens[number % CUSTOMERS]} HTTP/1.1\r\nHost: {url.netloc}\r\nUpgrade: websocket\r\n"
                f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
            ).encode()
            _, idle = await loop.create_connection(lambda request=request: Idle(request), url.hostname, url.port)
            crowd.append(idle)
            bar.update()
        took_s = time.monotonic() - started_s
        await asyncio.wait([idle.greeted for idle in crowd], timeout=60)
    return took_s


async def first_tokens(stack: Stack, clients: list[Client]) -> list[float]:
    """All ask at once; milliseconds."""
    replies = await asyncio.gather(*(client.answer("Hello there", intent="greeting") for client in clients))
    found = []
    for reply in replies:
        assert reply.first_token_ms is not None, reply.error
        found.append(reply.first_token_ms)
    return found


async def measure(stack: Stack) -> dict[str, Any]:
    """Everything, in one run."""
    orchestrator = psutil.Process(stack.processes["orchestrator"].pid)

    def held() -> dict[str, float]:
        return {"memory_mb": orchestrator.memory_info().rss / 2**20, "cpu_s": sum(orchestrator.cpu_times()[:2])}

    crowd: list[Idle] = []
    levels = []
    for count in CROWDS:
        before = held()
        sessions = count - len(crowd)
        took_s = await crowd_of(stack, count, crowd)
        came = sum(idle.greeted.done() and idle.greeted.exception() is None for idle in crowd)
        await asyncio.sleep(2)
        grown_kb = (held()["memory_mb"] - before["memory_mb"]) * 1024 / sessions
        idle_from = held()
        await asyncio.sleep(5)
        cpu = (held()["cpu_s"] - idle_from["cpu_s"]) / 5
        levels.append(
            {"connections": count, "in": came, "lost": sum(idle.lost for idle in crowd), "rate": sessions / took_s,
             "kb_a_session": grown_kb, "idle_cpu_share": cpu}
        )  # fmt: skip
    async with customers(stack, ASKING) as clients:
        await first_tokens(stack, clients)  # pools grow
        among = [await first_tokens(stack, clients) for _ in range(ROUNDS)]
        for idle in crowd:
            idle.transport.abort()
        before_s, connections = 0.0, 2 * ASKING
        while connections > ASKING or held()["cpu_s"] - before_s > 0.05:  # it is still notified of closed connections
            before_s = held()["cpu_s"]
            await asyncio.sleep(0.5)
            connections = len(await asyncio.to_thread(stack.local, "gateway", "GET", "connections"))
        await first_tokens(stack, clients)  # anything left over from the crowd is cleared away
        alone = [await first_tokens(stack, clients) for _ in range(ROUNDS)]
    return {"levels": levels, "alone": _percentiles(alone), "among": _percentiles(among)}


def _percentiles(rounds: list[list[float]]) -> list[dict[str, float]]:
    return [{f"p{q}": float(np.percentile(found, q)) for q in (50, 99)} for found in rounds]


def _p50(rounds: list[dict[str, float]]) -> float:
    return median(r["p50"] for r in rounds)


def tables() -> list[Table]:
    """What a connection costs, and whether the crowd slows down those who ask."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with running_stack(
        local_haiku_first_token_ms=275,
        local_cold_max_ms=0,
        local_cold_min_ms=0,
        max_connections=20_000,
        # The gateway's own limit is a sliding second: connections that waited for its processor would count twice.
        new_connections_per_second=2 * NEW_A_SECOND,
        # Answers that have just ended still count for a moment.
        capacity_answers=2 * ASKING,
    ) as stack:
        found = uvloop.run(measure(stack))
    rows = [
        [
            f"{level['connections']:,}",
            f"{level['in']:,}",
            f"{level['lost']:,}",
            f"{level['rate']:.0f}",
            f"{level['kb_a_session']:.1f}",
            f"{level['idle_cpu_share']:.1%}",
        ]
        for level in found["levels"]
    ]
    columns = ["connections", "in", "lost", "new a second", "KB a session", "processor while idle"]
    notes = [
        "KB of the orchestrator's resident memory. Target: under 40 KB a session, none lost, the same cost at both numbers."
    ]
    crowd = Table("scale", "2. Connections that idle", columns, rows, notes)
    asking = [
        [name, value_range([r["p50"] for r in rounds]), value_range([r["p99"] for r in rounds])]
        for name, rounds in (("alone", found["alone"]), ("among the crowd", found["among"]))
    ]
    ratio = _p50(found["among"]) / _p50(found["alone"])
    notes = [
        f"Medians of {ROUNDS} rounds, with the least and the most. Among by alone: {ratio:.2f}; target: at most 1.20."
    ]
    columns = [f"{ASKING} ask at once", "first token p50, ms", "p99, ms"]
    return [crowd, Table("scale-asking", f"2. First token among {CROWDS[-1]:,} that idle", columns, asking, notes)]
