"""One local stack for the whole test run, with short latencies, and a plain WebSocket client that shares no code with ours."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from mangalib import server
from mangalib.local.stack import Stack, running_stack

QUICK = {
    "local_haiku_first_token_ms": 30,
    "local_sonnet_first_token_ms": 30,
    "local_inter_token_ms": 4,
    "local_embedding_ms": 2,
    "local_knn_ms": 10,
    "local_cold_min_ms": 0,
    "local_cold_max_ms": 0,
    "local_daily_cycle": 0,
    "stream_timeout_s": 8,
    "keep_alive_s": 1,
    "prompt_refresh_s": 1,
    "release_refresh_s": 0.1,
    "send_timeout_s": 2,
    # A hedged request would hide a fault that a test injects into one invocation.
    "hedge_share": 0,
    # Most tests are about answers that are generated live.
    "answers_ahead": False,
    # Background calls would be counted, and would use up the faults, of a test's own query.
    "haiku_ping_every_s": 100_000,
    "sonnet_warm_every_s": 100_000,
    "sonnet_stream_every_s": 100_000,
    # On a busy machine a deadline must not decide what an answer contains; tests of deadlines set their own.
    "cache_budget_ms": 2000,
    "knn_deadline_ms": 4000,
    "profile_deadline_ms": 4000,
    "replay_timeout_ms": 2000,
}


# Real data, outside the project; tests that need them are skipped without them.
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

# Benchmark runs of the tests must not enter the developer's own store.
os.environ["MANGA_STORE"] = tempfile.mkdtemp(prefix="mangalib-test-store-")


@pytest.fixture(scope="session", autouse=True)
def _remove_store() -> Iterator[None]:
    yield
    shutil.rmtree(os.environ["MANGA_STORE"], ignore_errors=True)


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    with running_stack(quiet=True, **QUICK) as running:
        yield running


@pytest.fixture(autouse=True)
def _remove_faults(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "stack" in request.fixturenames:
        running: Stack = request.getfixturevalue("stack")
        for service in ("bedrock", "gateway", "opensearch"):
            running.local(service, "DELETE", "faults")


# Longer than any frame may take: a missing frame fails the test instead of blocking it.
FRAME_WITHIN_S = 15


class PlainClient:
    """A WebSocket and JSON."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def send(self, **message: Any) -> None:
        await self.socket.send(json.dumps(message))

    async def query(self, text: str, **fields: Any) -> str:
        request_id = fields.pop("request_id", uuid.uuid4().hex)
        await self.send(action="query", text=text, request_id=request_id, **fields)
        return request_id

    async def next(self, *types: str) -> dict[str, Any]:
        """The next frame of one of ``types``, or of any type; ``session`` frames only when asked for."""
        while True:
            async with asyncio.timeout(FRAME_WITHIN_S):
                frame: dict[str, Any] = json.loads(await self.socket.recv())
            if (frame["type"] in types) if types else (frame["type"] != "session"):
                return frame

    async def frames(self, request_id: str) -> list[dict[str, Any]]:
        """All frames of an answer, up to its last one."""
        found = []
        while not found or found[-1]["type"] not in {"done", "error"}:
            frame = await self.next()
            if frame.get("request_id") == request_id:
                found.append(frame)
        return found


@asynccontextmanager
async def orchestrator_here(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, *, beside: bool = False, **changes: object
) -> AsyncIterator[None]:
    """Make an orchestrator with ``changes`` to the settings, on the test's own loop, the gateway's back end for the block.

    It ends as on SIGTERM, but does not wait for running answers. With ``beside`` the stack's own orchestrator stays a back end
    too, and each has about half of the connections.
    """
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", stack.addresses["aws_access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", stack.addresses["aws_secret_access_key"])
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    settings = stack.settings.model_copy(update={"drain_timeout_s": 0.01, **changes})
    serving = asyncio.create_task(server.serve(settings, lambda at: ready.set_result(at["orchestrator_url"])))
    await asyncio.wait({ready, serving}, return_when=asyncio.FIRST_COMPLETED)
    usual = json.loads((stack.folder / "orchestrator.json").read_text())["orchestrator_url"]
    urls = [ready.result(), usual] if beside else [ready.result()]
    await asyncio.to_thread(stack.local, "gateway", "PUT", "integration", {"urls": urls})
    try:
        yield
    finally:
        serving.cancel()
        await asyncio.wait([serving])
        await asyncio.to_thread(stack.local, "gateway", "PUT", "integration", {"urls": [usual]})


@contextmanager
def orchestrator_process(
    stack: Stack, folder: Path, **changes: object
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Start another orchestrator of the stack as a process; yields the process and its URL."""
    process, addresses = stack.start("orchestrator", folder / "orchestrator.json", **changes)
    try:
        yield process, addresses["orchestrator_url"]
    finally:
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


@contextmanager
def back_ends(stack: Stack, *urls: str) -> Iterator[None]:
    """Set the gateway's back ends for the block; afterwards the stack's own orchestrator is the only one again."""
    usual = json.loads((stack.folder / "orchestrator.json").read_text())["orchestrator_url"]
    stack.local("gateway", "PUT", "integration", {"urls": list(urls)})
    try:
        yield
    finally:
        stack.local("gateway", "PUT", "integration", {"urls": [usual]})


Connect = Callable[..., Any]


@pytest.fixture
def plain(stack: Stack) -> Connect:
    @asynccontextmanager
    async def connected(customer: str | None = None, **options: Any) -> AsyncIterator[PlainClient]:
        token = stack.token_for(customer) if customer else stack.addresses["token"]
        url = f"{stack.addresses['websocket_url']}?token={token}"
        async with connect(url, proxy=None, **options) as socket:
            yield PlainClient(socket)

    return connected


def text_of(frames: list[dict[str, Any]]) -> str:
    return "".join(frame["text"] for frame in frames if frame["type"] == "chunk")
