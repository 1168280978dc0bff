"""boto3, a thread for each stream: the usual way out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from boto3_blocking import client_of, read_all
from rounds import Ask, MeasuredAnswer, Where, serve


@asynccontextmanager
async def connected(where: Where) -> AsyncIterator[Ask]:
    client = client_of(where)
    with ThreadPoolExecutor(where.at_once) as threads:

        async def ask(question: str, measured: MeasuredAnswer) -> None:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(threads, read_all, client, where.model, question, measured)

        yield ask
    client.close()


if __name__ == "__main__":
    serve(connected)
