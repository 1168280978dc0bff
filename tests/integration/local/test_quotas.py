"""The gateway's quotas and time-outs, with small figures."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import aiohttp
import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from mangalib.local.gateway import GatewayStandIn
from mangalib.local.stack import Stack, running_stack
from mangalib.settings import load_settings
from tests.conftest import QUICK, PlainClient

SMALL = {
    "max_connections": 3,
    # Far apart: sessions are looked at once a second, and on a busy machine later.
    "session_idle_after_s": 1,
    "idle_timeout_s": 5,
    "connection_lifetime_s": 8,
    "local_client_buffer_bytes": 256 * 1024,
    "integration_timeout_s": 1,
}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running_stack(quiet=True, **{**QUICK, **SMALL}) as running:
        yield running


def connected(stack: Stack, **options: object) -> connect:
    return connect(f"{stack.addresses['websocket_url']}?token={stack.addresses['token']}", proxy=None, **options)


async def refused_with(opening: connect) -> int:
    with pytest.raises(InvalidStatus) as refused:
        await opening.__aenter__()
    return refused.value.response.status_code


async def test_a_connection_beyond_the_quota_is_refused_until_another_closes(stack: Stack) -> None:
    sockets: list[ClientConnection] = [await connected(stack) for _ in range(3)]
    assert await refused_with(connected(stack)) == 429
    await sockets.pop().close()
    async with asyncio.timeout(5):
        while True:
            try:
                sockets.append(await connected(stack))
                break
            except InvalidStatus:
                await asyncio.sleep(0.02)
    for socket in sockets:
        await socket.close()


async def test_a_url_too_long_and_a_wrong_path_are_refused(stack: Stack) -> None:
    url = stack.addresses["websocket_url"]
    assert await refused_with(connect(f"{url}?token={'x' * 5000}", proxy=None)) == 414
    assert await refused_with(connect(url.replace("/prod", "/test"), proxy=None)) == 403


async def test_a_quiet_session_goes_idle_and_is_then_closed(stack: Stack) -> None:
    async with connected(stack) as socket:
        customer = PlainClient(socket)
        states = []
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                states.append((await customer.next("session"))["state"])
    assert states[:2] == ["authenticated", "idle"]
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1001


async def test_a_busy_connection_is_closed_at_its_maximum_lifetime(stack: Stack) -> None:
    async with connected(stack) as socket:
        customer, pongs = PlainClient(socket), 0
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                await customer.send(action="ping")
                await customer.next("pong")
                pongs += 1
                await asyncio.sleep(0.5)
    assert pongs > 10, "longer than the idle time-out"
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1001


async def test_a_back_ends_time_out_is_reported_to_the_client_and_the_connection_stays(stack: Stack) -> None:
    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    late = await asyncio.start_server(never, "127.0.0.1", 0)
    usual = json.loads((stack.folder / "orchestrator.json").read_text())["orchestrator_url"]
    async with connected(stack) as socket:
        customer = PlainClient(socket)
        await customer.next("session")
        url = f"http://127.0.0.1:{late.sockets[0].getsockname()[1]}"
        await asyncio.to_thread(stack.local, "gateway", "PUT", "integration", {"urls": [url]})
        try:
            await customer.send(action="ping")
            async with asyncio.timeout(5):
                while (reported := json.loads(await socket.recv())).get("type") == "session":
                    continue  # the session may go idle meanwhile
        finally:
            await asyncio.to_thread(stack.local, "gateway", "PUT", "integration", {"urls": [usual]})
        assert reported["message"] == "Internal server error"
        assert {"connectionId", "requestId"} <= reported.keys()
        await customer.send(action="ping")
        assert (await customer.next("pong"))["type"] == "pong"
    late.close()


async def test_connections_beyond_the_rate_are_refused_until_a_second_has_passed() -> None:
    settings = load_settings().model_copy(update={"new_connections_per_second": 3})
    async with aiohttp.ClientSession() as http:
        gateway = GatewayStandIn(settings, http)
        assert [gateway._admit() for _ in range(5)] == [True, True, True, False, False]
        gateway._handshakes[0] -= 1.5
        assert [gateway._admit() for _ in range(2)] == [True, False]


async def test_a_client_that_reads_nothing_fills_its_own_buffer_only(stack: Stack) -> None:
    api = boto3.client(
        "apigatewaymanagementapi",
        endpoint_url=stack.addresses["management_url"],
        region_name="us-west-2",
        aws_access_key_id=stack.addresses["aws_access_key_id"],
        aws_secret_access_key=stack.addresses["aws_secret_access_key"],
        config=Config(retries={"total_max_attempts": 1}),
    )
    async with connected(stack, user_agent_header="deaf", max_queue=1) as deaf, connected(stack) as other:
        deaf.transport.pause_reading()
        (about,) = [
            c
            for c in await asyncio.to_thread(stack.local, "gateway", "GET", "connections")
            if c["user_agent"] == "deaf"
        ]
        with pytest.raises(ClientError) as full:
            for _ in range(500):
                await asyncio.to_thread(api.post_to_connection, ConnectionId=about["id"], Data=b"x" * 100_000)
        assert full.value.response["ResponseMetadata"]["HTTPStatusCode"] == 429
        customer = PlainClient(other)
        assert (await customer.frames(await customer.query("Hello there")))[-1]["type"] == "done"
    api.close()
