"""The warm pool against a real server on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mangalib.aws.connection_pool import WarmPool
from mangalib.aws.http1 import Endpoint, HttpConnection
from mangalib.errors import BusyError, TransportError, TransportTimeoutError


class Server:
    """Responds to every request with ``ok``; counts connections; can delay responses, or drop all connections."""

    def __init__(self) -> None:
        self.connections = 0
        self.requests: list[str] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.writers: set[asyncio.StreamWriter] = set()
        self.endpoint = Endpoint("127.0.0.1", 0, None)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.requests.append(head.split(b" ")[1].decode())
                await self.hold.wait()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            self.writers.discard(writer)
        finally:
            writer.close()

    def drop_all(self) -> None:
        for writer in list(self.writers):
            writer.close()


@asynccontextmanager
async def running() -> AsyncIterator[Server]:
    server = Server()
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.endpoint = Endpoint("127.0.0.1", listener.sockets[0].getsockname()[1], None)
    try:
        yield server
    finally:
        listener.close()
        server.hold.set()
        server.drop_all()


async def get(connection: HttpConnection, path: str = "/query") -> bytes:
    await connection.send("GET", path, {}, b"", timeout_s=5)
    return await connection.read_all(timeout_s=5)


def pool_of(server: Server, **changes: object) -> WarmPool:
    options = {"size": 5, "max_size": 8, "acquire_timeout_s": 5, "shrink_after_s": 60, "keep_alive_s": 60}
    options |= {"refill_backoff_s": 0.001, **changes}

    async def keep_alive(connection: HttpConnection) -> None:
        await get(connection, "/keep-alive")

    return WarmPool(lambda: HttpConnection.open(server.endpoint, timeout_s=2), keep_alive=keep_alive, **options)


def waits_of(pool: WarmPool) -> list[None]:
    """Grows by one whenever a request has to wait for a connection."""
    waits: list[None] = []
    pool.on_wait = lambda: waits.append(None)
    return waits


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def test_five_connections_are_open_before_the_first_request_and_are_reused() -> None:
    async with running() as server:
        async with pool_of(server) as pool:
            assert (server.connections, pool.idle) == (5, 5)
            for _ in range(20):
                async with pool.lease() as connection:
                    assert await get(connection) == b"ok"
            assert server.connections == 5
        await until(lambda: not server.writers)


async def test_under_load_it_grows_to_the_maximum_and_shrinks_back() -> None:
    async with running() as server, pool_of(server, keep_alive_s=0.05, shrink_after_s=0.1) as pool:
        server.hold.clear()

        async def use() -> None:
            async with pool.lease() as connection:
                await get(connection)

        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(use())
            await until(lambda: len(server.requests) >= 8)
            assert pool.total == 8
            server.hold.set()
        assert server.connections == 8
        await until(lambda: pool.total == 5)


async def test_waiters_are_served_first_come_first_served() -> None:
    async with running() as server, pool_of(server, size=1, max_size=1) as pool:
        order, waits = [], waits_of(pool)

        async def use(number: int) -> None:
            async with pool.lease():
                order.append(number)
                await asyncio.sleep(0)

        async with pool.lease():
            tasks = [asyncio.create_task(use(number)) for number in range(10)]
            await until(lambda: len(waits) == 10)
        await asyncio.gather(*tasks)
        assert order == list(range(10))


async def test_no_free_connection_in_time_is_busy_and_the_pool_stays_intact() -> None:
    async with running() as server, pool_of(server, size=1, max_size=1, acquire_timeout_s=0.05) as pool:
        async with pool.lease() as connection:
            with pytest.raises(BusyError, match=r"within 0\.05 s"):
                async with pool.lease():
                    pytest.fail("there is only one connection")
            await get(connection)
        assert (pool.idle, pool.total) == (1, 1)


async def test_a_waiter_that_is_cancelled_leaves_nothing_behind() -> None:
    async with running() as server, pool_of(server, size=1, max_size=1) as pool:
        waits = waits_of(pool)
        async with pool.lease():
            waiter = asyncio.create_task(pool._acquire())
            await until(lambda: waits)
        waiter.cancel()  # at the moment at which the connection was handed over
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert pool.idle == 1


async def test_an_unread_response_costs_its_connection_only() -> None:
    async with running() as server, pool_of(server) as pool:
        server.hold.clear()
        async with pool.lease() as connection:
            with pytest.raises(TransportTimeoutError):
                await connection.send("GET", "/", {}, b"", timeout_s=0.05)
        server.hold.set()
        await until(lambda: pool.idle == 5)
        assert server.connections == 6


async def test_connections_dropped_by_the_peer_are_replaced() -> None:
    async with running() as server, pool_of(server) as pool:
        server.drop_all()
        await until(lambda: server.connections == 10 and pool.idle == 5)
        async with pool.lease() as connection:
            assert await get(connection) == b"ok"


async def test_keep_alive_never_uses_the_last_idle_connection_and_delays_no_request() -> None:
    """Thirty intervals, counted, not timed."""
    async with running() as server, pool_of(server, keep_alive_s=0.03) as pool:
        fewest_idle, waits = 5, waits_of(pool)
        while server.requests.count("/keep-alive") < 30 * 4:
            async with pool.lease() as connection:
                fewest_idle = min(fewest_idle, pool.idle)
                assert await get(connection) == b"ok"
            await asyncio.sleep(0)
        assert not waits, "no query waited"
        assert fewest_idle >= 3, "one leased, at most one being pinged"
        assert server.connections == 5, "no keep-alive failed"


async def test_keep_alive_does_not_use_a_single_idle_connection() -> None:
    async with running() as server, pool_of(server, size=2, max_size=2) as pool:
        async with pool.lease():
            await pool._maintain()
            assert (server.requests, pool.idle) == ([], 1)
        await pool._maintain()
        assert "/keep-alive" in server.requests


async def test_a_keep_alive_that_fails_is_reported_and_the_connection_replaced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running() as server:

        async def broken(connection: HttpConnection) -> None:
            raise TransportError("no answer")

        options = {"size": 3, "max_size": 3, "acquire_timeout_s": 1, "shrink_after_s": 60, "keep_alive_s": 0.05}
        opener = lambda: HttpConnection.open(server.endpoint, timeout_s=2)  # noqa: E731
        async with WarmPool(opener, keep_alive=broken, **options):
            await until(lambda: caplog.text.count("keep-alive failed") >= 2 and server.connections > 3)


async def test_an_unreachable_server_is_reported_on_entering() -> None:
    nowhere = Server()
    nowhere.endpoint = Endpoint("127.0.0.1", 9, None)
    with pytest.raises(TransportError, match="no connection to http://127"):
        async with pool_of(nowhere):
            pytest.fail("nothing listens there")


async def test_bytes_that_are_not_http_are_an_error() -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\x00\x01\x02 nonsense\r\n\r\n")
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(babble, "127.0.0.1", 0)
    connection = await HttpConnection.open(
        Endpoint("127.0.0.1", listener.sockets[0].getsockname()[1], None), timeout_s=2
    )
    with pytest.raises(TransportError, match="invalid HTTP response"):
        await get(connection)
    assert not connection.reusable
    connection.close()
    listener.close()


MOST = 4


class PoolLife(RuleBasedStateMachine):
    """Queries that arrive, wait, give up, succeed or fail, and a peer that drops all connections, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.open = AsyncExitStack()
        self.leases: list[tuple[AsyncExitStack, HttpConnection]] = []
        self.waiting: list[asyncio.Task[tuple[AsyncExitStack, HttpConnection]]] = []
        self.run(self._start())

    def run(self, coroutine: Coroutine[None, None, None]) -> None:
        self.loop.run_until_complete(coroutine)

    async def _start(self) -> None:
        self.server = await self.open.enter_async_context(running())
        self.pool = await self.open.enter_async_context(pool_of(self.server, size=2, max_size=MOST))

    async def _lease(self) -> tuple[AsyncExitStack, HttpConnection]:
        stack = AsyncExitStack()
        return stack, await stack.enter_async_context(self.pool.lease())

    async def _settled(self) -> None:
        """Waiters have received the connections there are."""
        await until(lambda: not self.waiting or len(self.leases) + self._ready() == MOST or self._ready() > 0)
        for task in [task for task in self.waiting if task.done()]:
            self.waiting.remove(task)
            self.leases.append(task.result())

    def _ready(self) -> int:
        return sum(task.done() for task in self.waiting)

    @precondition(lambda self: len(self.waiting) < 3)
    @rule()
    def a_query_arrives(self) -> None:
        async def comes() -> None:
            self.waiting.append(asyncio.create_task(self._lease()))
            await self._settled()

        self.run(comes())

    @precondition(lambda self: self.leases)
    @rule(succeeds=st.booleans())
    def a_query_ends(self, succeeds: bool) -> None:
        async def ends() -> None:
            stack, connection = self.leases.pop(0)
            if succeeds and connection.reusable:
                with suppress(TransportError):  # the peer may have dropped it at this moment
                    await get(connection)
            elif connection.reusable:
                connection.close()
            await stack.aclose()
            await self._settled()

        self.run(ends())

    @precondition(lambda self: self.waiting)
    @rule()
    def a_query_gives_up(self) -> None:
        async def gives_up() -> None:
            task = self.waiting.pop()
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                await task.result()[0].aclose()

        self.run(gives_up())

    @rule()
    def the_peer_drops_all_connections(self) -> None:
        async def drops() -> None:
            self.server.drop_all()
            await asyncio.sleep(0.001)  # some connections notice before the next step, others after it

        self.run(drops())

    @invariant()
    def no_connection_is_leased_twice_and_the_pool_keeps_its_bounds(self) -> None:
        held = [id(connection) for _, connection in self.leases]
        assert len(set(held)) == len(held)
        assert self.pool.total <= MOST
        assert not any(connection in self.pool._idle for _, connection in self.leases)
        assert self.pool.idle == 0 or not self.waiting, "no query waits while a connection is free"

    def teardown(self) -> None:
        async def ends() -> None:
            for task in self.waiting:
                task.cancel()
            if self.waiting:
                await asyncio.wait(self.waiting)
            for stack, _ in self.leases:
                await stack.aclose()
            # Without queries it refills; after closing it nothing stays open.
            await until(lambda: self.pool.total >= 2)
            await self.open.aclose()
            await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})

        self.run(ends())
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


TestPoolLife = PoolLife.TestCase
TestPoolLife.settings = settings(max_examples=30, deadline=None, stateful_step_count=25)
