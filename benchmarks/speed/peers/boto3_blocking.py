"""boto3, read on the event loop itself: what one writes first."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import boto3
from botocore.config import Config
from rounds import Ask, MeasuredAnswer, Where, body_of, serve


def client_of(where: Where) -> Any:
    config = Config(max_pool_connections=where.at_once)
    return boto3.client(
        "bedrock-runtime", region_name=where.region, endpoint_url=where.url, verify=where.ca, config=config
    )


def read_all(client: Any, model: str, question: str, measured: MeasuredAnswer) -> None:
    answer = client.invoke_model_with_response_stream(modelId=model, body=body_of(question))
    for event in answer["body"]:
        measured.add_event(json.loads(event["chunk"]["bytes"]))


@asynccontextmanager
async def connected(where: Where) -> AsyncIterator[Ask]:
    client = client_of(where)

    async def ask(question: str, measured: MeasuredAnswer) -> None:
        read_all(client, where.model, question, measured)

    yield ask
    client.close()


if __name__ == "__main__":
    serve(connected)
