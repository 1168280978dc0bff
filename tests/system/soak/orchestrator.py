"""An orchestrator that records its memory, tasks and sockets: ``python -m tests.system.soak.orchestrator FIGURES READY_FILE``."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import uvloop

from mangalib import server
from mangalib.serving.telemetry import log_as_json
from mangalib.settings import load_settings
from mangalib.storage import write_atomically

RECORDED_EVERY_S = 0.5


class ProcessResources:
    """This process's memory, tasks and sockets. Connections kept open between loads (Redis's pool, and the gateway's to this
    process, each with a task) are counted separately: they are bounded by the largest load."""

    def __init__(self, redis_port: int | None) -> None:
        self._process = psutil.Process()
        self._redis_port = redis_port
        self.port: int | None = None

    def measure(self) -> dict[str, float]:
        """The figures that would grow with a leak."""
        with self._process.oneshot():
            connections = [c for c in self._process.net_connections() if c.raddr]
            redis = sum(c.raddr.port == self._redis_port for c in connections)
            inbound = sum(c.laddr.port == self.port for c in connections)
            return {
                "memory_mb": self._process.memory_info().rss / 2**20,
                "tasks": len(asyncio.all_tasks()) - inbound,
                "descriptors": self._process.num_fds() - redis - inbound,
                "sockets": len(connections) - redis - inbound,
                "threads": self._process.num_threads(),
                "kept_open": redis + inbound,
            }


async def _run(figures_file: Path, ready_file: Path) -> None:
    settings = load_settings()
    resources = ProcessResources(urlsplit(settings.redis_url or "").port)

    def announce(addresses: dict[str, str]) -> None:
        resources.port = urlsplit(addresses["orchestrator_url"]).port
        write_atomically(ready_file, json.dumps(addresses))

    serving = asyncio.ensure_future(server.serve(settings, announce))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
    with figures_file.open("a", encoding="utf-8") as file:
        while not serving.done():
            print(json.dumps(resources.measure()), file=file, flush=True)
            await asyncio.wait({serving}, timeout=RECORDED_EVERY_S)
    if not serving.cancelled():
        serving.result()


if __name__ == "__main__":
    log_as_json()
    uvloop.run(_run(Path(sys.argv[1]), Path(sys.argv[2])))
