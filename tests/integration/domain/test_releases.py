"""Releases in DynamoDB, changed concurrently, and each optimisation switched off alone in a running orchestrator."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import boto3
import pytest

from mangalib.aws import DocumentTable
from mangalib.client import Client, Reply
from mangalib.domain.releases import Release, ReleaseFollower, ReleaseStore
from mangalib.errors import ReleaseError
from mangalib.local.stack import Stack
from mangalib.protocol.frames import Chunk, Status
from mangalib.resilience import try_refresh

WITHIN_S = 10.0


def dynamodb_of(stack: Stack) -> Any:
    return boto3.resource(
        "dynamodb",
        endpoint_url=stack.addresses["aws_url"],
        region_name=stack.settings.region,
        aws_access_key_id=stack.addresses["aws_access_key_id"],
        aws_secret_access_key=stack.addresses["aws_secret_access_key"],
    ).meta.client


@pytest.fixture
def store(stack: Stack) -> Iterator[ReleaseStore]:
    """A table for one test."""
    client = dynamodb_of(stack)
    client.create_table(
        TableName="test-releases",
        KeySchema=[{"AttributeName": "release", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "release", "AttributeType": "N"}],
        BillingMode="PAY_PER_REQUEST",
    )
    yield ReleaseStore(DocumentTable(client, "test-releases", key="release", error=ReleaseError))
    client.delete_table(TableName="test-releases")


def test_of_concurrent_rollbacks_one_takes_effect(store: ReleaseStore) -> None:
    for note in ("one", "two", "three"):
        store.activate(store.create(Release(note=note)).number, note)
    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lambda _: store.rollback("all at once", bad=3)[1].number, range(6)))
    assert set(found) == {2}
    pointer = store.pointer()
    assert pointer.active == 2
    assert [activation.release for activation in pointer.activations] == [1, 2, 3, 2]


def test_of_releases_created_concurrently_each_has_its_number(store: ReleaseStore) -> None:
    with ThreadPoolExecutor(3) as threads:
        numbers = list(threads.map(lambda n: store.create(Release(note=str(n))).number, range(3)))
    assert sorted(numbers) == [1, 2, 3]


async def test_while_the_table_cannot_be_read_the_last_release_stays_active(store: ReleaseStore, stack: Stack) -> None:
    store.activate(store.create(Release(note="one", chunk_batch_size=7)).number, "")
    follower = ReleaseFollower(store)
    await follower.refresh()
    assert follower.current.chunk_batch_size == 7
    follower._store = ReleaseStore(
        DocumentTable(dynamodb_of(stack), "no-such-table", key="release", error=ReleaseError)
    )
    assert not await try_refresh("reading the active release", follower.refresh)
    assert follower.current.chunk_batch_size == 7


# An orchestrator under a release


@asynccontextmanager
async def under(stack: Stack, **changes: Any) -> AsyncIterator[Client]:
    """A client of an orchestrator that follows a release with ``changes``; the one before is active afterwards."""
    releases = ReleaseStore(
        DocumentTable(dynamodb_of(stack), stack.settings.releases_table, key="release", error=ReleaseError)
    )
    off = changes.pop("off", ())
    created = releases.create(Release(**changes).changed("test", {}, {}, None, off=off))
    before = releases.pointer().active
    await asyncio.to_thread(releases.activate, created.number, "test")
    try:
        async with Client(
            stack.addresses["websocket_url"], stack.addresses["token"], settings=stack.settings
        ) as client:
            await followed(client, created.number)
            yield client
    finally:
        await asyncio.to_thread(releases.activate, before, "test is over")
        async with Client(
            stack.addresses["websocket_url"], stack.addresses["token"], settings=stack.settings
        ) as client:
            await followed(client, before)


async def followed(client: Client, number: int) -> None:
    deadline_s = time.monotonic() + WITHIN_S
    while (await answered(client, "Hello", "greeting")).metadata.release != number:  # type: ignore[union-attr]
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.05)


async def answered(client: Client, text: str, intent: str) -> Reply:
    reply = await client.answer(text, intent=intent)
    assert reply.metadata is not None
    return reply


def chunks(reply: Reply) -> int:
    return sum(isinstance(received.frame, Chunk) for received in reply.frames)


def statuses(reply: Reply) -> int:
    return sum(isinstance(received.frame, Status) for received in reply.frames)


SHARED = "What is your return policy?"


async def test_with_all_optimisations_the_orchestrator_does_as_specified(stack: Stack) -> None:
    async with under(stack) as client:
        before = stack.bedrock_stats()
        reply = await answered(client, "Tell me about One Piece", "product_search")
        assert statuses(reply) == 4
        assert reply.metadata.model_id == stack.settings.sonnet_model_id  # type: ignore[union-attr]
        assert (await answered(client, SHARED, "faq")).metadata.source == "semantic_cache"  # type: ignore[union-attr]
        assert stack.bedrock_stats()["tls_handshakes"] == before["tls_handshakes"]


async def test_without_the_warm_pool_every_invocation_has_its_own_handshake(stack: Stack) -> None:
    async with under(stack, off=["warm_pool"]) as client:
        before = stack.bedrock_stats()
        for _ in range(3):
            await answered(client, "Hello", "greeting")
        after = stack.bedrock_stats()
        assert after["tls_handshakes"] - before["tls_handshakes"] == 3
        await answered(client, "Tell me about One Piece", "product_search")
        assert stack.bedrock_stats()["tls_handshakes"] - after["tls_handshakes"] == 2, "embedding, and model"


async def test_without_preloaded_prompts_the_table_is_read_for_each_answer(stack: Stack) -> None:
    table = stack.settings.prompts_table
    client = dynamodb_of(stack)
    key = {"intent": "greeting", "version": 99}
    async with under(stack, off=["preloaded_prompts"], prompt_versions={"greeting": 99}) as chat:
        client.put_item(TableName=table, Item={**key, "prompt_text": "Say hello.", "active": True})
        before = stack.bedrock_stats()["input_tokens"]
        await answered(chat, "Hello", "greeting")
        assert stack.bedrock_stats()["input_tokens"] - before < 10, "the short prompt was there at once"
        client.delete_item(TableName=table, Key=key)


async def test_without_fan_out_look_ups_run_one_after_another(stack: Stack) -> None:
    async def marks(client: Client) -> dict[str, float]:
        reply = await answered(client, "Compare Naruto and Bleach", "comparison")
        return reply.metadata.timeline  # type: ignore[union-attr]

    async with under(stack, off=["parallel_fan_out"]) as client:
        found = await marks(client)
        assert found["cache"] < found["knn"] < found["customer"]
        assert found["fan_out"] >= found["customer"]


async def test_without_batching_every_delta_is_a_frame(stack: Stack) -> None:
    async with under(stack) as client:
        batched = await answered(client, "Tell me about One Piece", "product_search")
    async with under(stack, off=["chunk_batching"]) as client:
        single = await answered(client, "Tell me about One Piece", "product_search")
    async with under(stack, chunk_batch_size=50) as client:
        large = await answered(client, "Tell me about One Piece", "product_search")
    assert batched.text == single.text == large.text
    assert chunks(single) > 1.5 * chunks(batched) > 3 * chunks(large)


async def test_without_status_messages_the_text_comes_first(stack: Stack) -> None:
    async with under(stack, off=["status_messages"]) as client:
        reply = await answered(client, "Tell me about One Piece", "product_search")
    assert statuses(reply) == 0
    assert isinstance(reply.frames[0].frame, Chunk)


async def test_without_routing_every_question_uses_the_large_model_and_retrieval(stack: Stack) -> None:
    async with under(stack, off=["model_routing"]) as client:
        reply = await answered(client, "Hello", "greeting")
    assert reply.metadata.model_id == stack.settings.sonnet_model_id  # type: ignore[union-attr]
    assert "knn" in reply.metadata.timeline  # type: ignore[union-attr]


async def test_without_the_cache_the_model_is_called(stack: Stack) -> None:
    async with under(stack, off=["semantic_cache"]) as client:
        reply = await answered(client, SHARED, "faq")
    assert reply.metadata.source == "model"  # type: ignore[union-attr]


async def test_a_release_names_models(stack: Stack) -> None:
    async with under(stack, models={"greeting": stack.settings.sonnet_model_id}) as client:
        reply = await answered(client, "Hello", "greeting")
    assert reply.metadata.model_id == stack.settings.sonnet_model_id  # type: ignore[union-attr]


async def test_an_answer_names_its_release(stack: Stack) -> None:
    async with under(stack, chunk_batch_size=2) as client:
        received = [one async for one in client.ask("Tell me about One Piece", intent="product_search")]
    assert received[-1].frame.metadata.release > 0  # type: ignore[union-attr]
