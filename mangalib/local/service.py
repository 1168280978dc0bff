"""Runs one local service in a process of its own: ``python -m mangalib.local.service NAME READY_FILE``.

The service writes its addresses to READY_FILE when it is ready. It exits on SIGTERM, on SIGINT, or when its standard input
closes, which it does when the parent process exits for any reason.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import logging
import shutil
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

from mangalib.errors import MangaError
from mangalib.serving import log_as_json
from mangalib.settings import Settings, load_settings
from mangalib.storage import write_atomically

log = logging.getLogger(__name__)

Announce = Callable[[dict[str, str]], None]
Serve = Callable[[Settings, Announce], Awaitable[None]]

_FOLDER_PREFIX = "mangalib-"

SERVICES = {
    "redis": "mangalib.local.redis",
    "aws": "mangalib.local.aws",
    "bedrock": "mangalib.local.bedrock",
    "opensearch": "mangalib.local.opensearch",
    "gateway": "mangalib.local.gateway",
    "pagerduty": "mangalib.local.pagerduty",
    "orchestrator": "mangalib.server",
}


def make_stack_folder() -> Path:
    """Create a folder for one run of the stack, accessible to its owner only."""
    return Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX))


def remove_stack_folder(folder: Path) -> None:
    """Remove a folder that :func:`make_stack_folder` created; does nothing for any other folder."""
    if folder.name.startswith(_FOLDER_PREFIX) and folder.parent == Path(tempfile.gettempdir()):
        shutil.rmtree(folder, ignore_errors=True)


async def _run(serve: Serve, settings: Settings, ready_file: Path) -> None:
    def announce(addresses: dict[str, str]) -> None:
        # As in the orchestrator: a full garbage collection would pause streams.
        gc.collect()
        gc.freeze()
        write_atomically(ready_file, json.dumps(addresses))

    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    stdin_closes = await _until_stdin_closes(loop)
    service: asyncio.Future[None] = asyncio.ensure_future(serve(settings, announce))
    stopped = asyncio.ensure_future(stop.wait())
    ends: set[asyncio.Future[Any]] = {service, stopped, stdin_closes}
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if stdin_closes.done():
        remove_stack_folder(ready_file.parent)
    stopped.cancel()
    stdin_closes.cancel()
    service.cancel()
    try:
        await service
    except asyncio.CancelledError:
        log.debug("stopped")


async def _until_stdin_closes(loop: asyncio.AbstractEventLoop) -> asyncio.Future[bytes]:
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return asyncio.ensure_future(reader.read())


def main() -> None:
    """Entry point; exits with code 1 and one line for a wrong setting or a service that fails to start."""
    name, ready_file = sys.argv[1], Path(sys.argv[2])
    log_as_json()
    serve: Serve = importlib.import_module(SERVICES[name]).serve
    try:
        uvloop.run(_run(serve, load_settings(), ready_file))
    except (MangaError, OSError) as error:
        sys.exit(f"{name}: {error}")


if __name__ == "__main__":
    main()
