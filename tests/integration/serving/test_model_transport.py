"""The model transport is a real seam: an answer does not depend on whether our own client, boto3 or a fake implements it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from typing import Any

import boto3
import msgspec
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from mangalib import server
from mangalib.aws import ClaudeRequest, ModelEvent, ModelRequest
from mangalib.errors import BedrockError
from mangalib.local.stack import Stack
from mangalib.settings import Settings
from tests.conftest import Connect, orchestrator_here, text_of
from tests.unit.serving.fake_models import FakeModels, whole


class Boto3Models:
    """The same two methods over boto3, whose blocking stream is read in a thread."""

    def __init__(self, settings: Settings) -> None:
        self.streams = 0
        self._client = boto3.client(
            "bedrock-runtime",
            config=Config(retries={"total_max_attempts": 1}),
            endpoint_url=settings.bedrock_url,
            region_name=settings.region,
            verify=str(settings.bedrock_ca),
        )

    @asynccontextmanager
    async def stream(self, model_id: str, request: ClaudeRequest) -> AsyncIterator[AsyncIterator[list[ModelEvent]]]:
        self.streams += 1
        invoke = self._client.invoke_model_with_response_stream
        answer = await _asked(invoke, modelId=model_id, body=request.body())
        with closing(answer["body"]) as body:
            yield _events_of(iter(body))

    async def invoke(self, model_id: str, request: ModelRequest) -> bytes:
        answer = await _asked(self._client.invoke_model, modelId=model_id, body=request.body())
        return bytes(await asyncio.to_thread(answer["body"].read))


async def _asked(call: Callable[..., Any], **arguments: Any) -> Any:
    try:
        return await asyncio.to_thread(call, **arguments)
    except ClientError as error:
        said = error.response
        raise BedrockError(
            said["Error"]["Code"], said["Error"]["Message"], status=said["ResponseMetadata"]["HTTPStatusCode"]
        ) from error


async def _events_of(body: Iterator[Any]) -> AsyncIterator[list[ModelEvent]]:
    while (event := await asyncio.to_thread(next, body, None)) is not None:
        yield [msgspec.json.decode(event["chunk"]["bytes"], type=ModelEvent)]


@pytest.mark.parametrize("question", ["Hello!", "Tell me about One Piece"])
async def test_boto3_can_implement_the_model_transport(
    stack: Stack, plain: Connect, monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", stack.addresses["aws_access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", stack.addresses["aws_secret_access_key"])
    models = Boto3Models(stack.settings)
    monkeypatch.setattr(server, "BedrockRuntime", lambda *_: models)
    async with plain() as client:
        ours = text_of(await client.frames(await client.query(question)))
        async with orchestrator_here(stack, monkeypatch), plain() as theirs:
            frames = await theirs.frames(await theirs.query(question))
    assert frames[-1]["type"] == "done"
    assert frames[-1]["metadata"]["tokens"] > 0
    assert text_of(frames) == ours
    assert models.streams == 1


async def test_an_error_that_boto3_raises_is_retried_like_our_own(
    stack: Stack, plain: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = Boto3Models(stack.settings)
    monkeypatch.setattr(server, "BedrockRuntime", lambda *_: models)
    async with orchestrator_here(stack, monkeypatch), plain() as client:
        await asyncio.to_thread(stack.local, "bedrock", "POST", "faults", {"kind": "throttle"})
        frames = await client.frames(await client.query("Hello!"))
    assert frames[-1]["type"] == "done"
    assert frames[-1]["metadata"]["attempts"] == models.streams == 2


async def test_a_fake_can_implement_the_model_transport(
    stack: Stack, plain: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = BedrockError("ThrottlingException", "slow down", status=429)
    models = FakeModels([fault], whole("It is ", "scripted."))
    monkeypatch.setattr(server, "BedrockRuntime", lambda *_: models)
    async with orchestrator_here(stack, monkeypatch), plain() as client:
        frames = await client.frames(await client.query("Hello!"))
    assert text_of(frames) == "It is scripted."
    assert frames[-1]["metadata"]["attempts"] == 2
    assert json.loads(models.requests[0].body())["messages"][-1] == {"role": "user", "content": "Hello!"}
    assert models.closed == 2
