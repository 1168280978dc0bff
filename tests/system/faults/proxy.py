"""A TCP proxy between the product and a service that injects faults into their connections."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

SLOW_S = 0.01
LISTEN = "127.0.0.1"


class FaultProxy:
    """Use as ``async with FaultProxy(port) as proxy``; ``proxy.port`` is stable, ``target`` may change.

    :meth:`set_mode` sets ``mode``: ``pass``, ``refused``, ``reset``, ``stalled``, ``slow``, ``wrong bytes``, or ``answer``.
    With ``answer`` the proxy itself responds with ``answer(request)``, and the service receives nothing.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.mode = "pass"
        self.answer: Callable[[bytes], bytes] = lambda sent: b""
        self._listener: socket.socket | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()

    async def __aenter__(self) -> FaultProxy:
        self._listen()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._close_listener()
        self._abort()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def set_mode(self, mode: str) -> None:
        """Apply ``mode`` to open and to new connections."""
        self.mode = mode
        if mode == "stalled":
            self._flows.clear()
        else:
            self._flows.set()
        if mode in {"refused", "reset", "answer"}:
            self._abort()
        if mode == "refused":
            self._close_listener()
        elif self._listener is None:
            self._listen()

    def _listen(self) -> None:
        self._listener = socket.create_server((LISTEN, self.port), backlog=1024)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    def _accept(self, listener: socket.socket) -> None:
        # In one step from the listener to the task that owns the connection: a cancelled accept would lose it unclosed.
        with suppress(BlockingIOError):
            accepted, _ = listener.accept()
            accepted.setblocking(False)
            task = asyncio.create_task(self._serve(accepted))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(lambda _: accepted.close())

    def _close_listener(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _abort(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, accepted: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=accepted)
        self._writers.add(writer)
        try:
            with suppress(OSError):
                await (self._answer(reader, writer) if self.mode == "answer" else self._carry(reader, writer))
        finally:
            writer.transport.abort()
            self._writers.discard(writer)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while sent := await reader.read(2**18):
            writer.write(self.answer(sent))
            await writer.drain()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back_reader, back_writer = await asyncio.open_connection(LISTEN, self.target)
        self._writers.add(back_writer)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, back_writer, from_service=False))
                group.create_task(self._pump(back_reader, writer, from_service=True))
        except* OSError:
            pass  # one side has closed; the other is closed below
        finally:
            back_writer.transport.abort()
            self._writers.discard(back_writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_service: bool) -> None:
        while data := await reader.read(2**16):
            await self._flows.wait()
            if self.mode == "slow":
                await asyncio.sleep(SLOW_S)
            if self.mode == "wrong bytes" and from_service:
                # Invalid in every protocol used here, and a complete line; random bytes might by chance be valid.
                data = b"\xff" * len(data) + b"\r\n"
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError
