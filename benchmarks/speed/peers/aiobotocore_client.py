"""aiobotocore: botocore's decoding on asyncio."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from rounds import Ask, MeasuredAnswer, Where, body_of, serve


@asynccontextmanager
async def connected(where: Where) -> AsyncIterator[Ask]:
    async with get_session().create_client(
        "bedrock-runtime",
        region_name=where.region,
        endpoint_url=where.url,
        verify=where.ca,
        config=AioConfig(max_pool_connections=where.at_once),
    ) as client:

        async def ask(question: str, measured: MeasuredAnswer) -> None:
            answer = await client.invoke_model_with_response_stream(modelId=where.model, body=body_of(question))
            async for event in answer["body"]:
                measured.add_event(json.loads(event["chunk"]["bytes"]))

        yield ask


if __name__ == "__main__":
    serve(connected)
