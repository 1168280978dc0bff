"""DynamoDB, CloudWatch, SNS, EventBridge and S3, by moto's server."""

from __future__ import annotations

import asyncio

from moto.server import ThreadedMotoServer

from mangalib.local.service import Announce
from mangalib.settings import LocalSettings


async def serve(settings: LocalSettings, announce: Announce) -> None:
    """Run until cancelled."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    announce({"aws_url": f"http://{host}:{port}"})
    try:
        await asyncio.Event().wait()
    finally:
        server.stop()
