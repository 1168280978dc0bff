"""One HTTP/1.1 connection on asyncio: a request at a time, the answer's body in the pieces in which it arrives.

httptools (llhttp) parses; this file only carries bytes. The consumer is woken once per read of the socket, however many
events that read held, and reading stops while more than ``HIGH_WATER_BYTES`` wait to be consumed.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools

from mangalib.errors import TransportError, TransportTimeoutError

HIGH_WATER_BYTES = 256 * 1024


@dataclass(frozen=True)
class Endpoint:
    """Where to connect, and with which trust; ``host_header`` is what requests and signatures carry."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    path: str = ""

    @classmethod
    def from_url(cls, url: str, *, ca_file: str | None = None) -> Endpoint:
        """The endpoint of ``http://…`` or ``https://…``; ``ca_file`` replaces the system's certificate authorities."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise TransportError(f"{url!r} is not an address; expected http://host or https://host")
        tls = ssl.create_default_context(cafile=ca_file) if parts.scheme == "https" else None
        return cls(parts.hostname, parts.port or (443 if tls else 80), tls, parts.path.rstrip("/"))

    @property
    def host_header(self) -> str:
        """Host and port as HTTP wants them: the port only where it is not the scheme's own."""
        standard = 443 if self.tls else 80
        return self.host if self.port == standard else f"{self.host}:{self.port}"

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"{'https' if self.tls else 'http'}://{self.host_header}"


class HttpConnection(asyncio.Protocol):
    """Made by :meth:`open`. Use: ``await send(…)``, then ``await read()`` until it returns ``b""``."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.status = 0
        self.headers: dict[str, str] = {}
        self.last_used = time.monotonic()
        self.on_lost: Callable[[HttpConnection], None] | None = None
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._body: list[bytes] = []
        self._buffered = 0
        self._paused = False
        self._complete = True
        self._headers_done = False
        self._answered = False
        self._keep = True
        self._failure: TransportError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._late_at_s = 0.0
        self._clock: asyncio.TimerHandle | None = None

    @classmethod
    async def open(cls, endpoint: Endpoint, *, timeout_s: float) -> HttpConnection:
        """Connect, TLS handshake included; raises ``TransportError`` or ``TransportTimeoutError``."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                _, connection = await loop.create_connection(
                    lambda: cls(endpoint), endpoint.host, endpoint.port, ssl=endpoint.tls
                )
        except TimeoutError:
            raise TransportTimeoutError(f"no connection to {endpoint.origin} within {timeout_s:g} s") from None
        except OSError as error:
            raise TransportError(f"no connection to {endpoint.origin}: {error}") from error
        return connection

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent: the last answer was read to its end and both sides keep the connection."""
        return self._complete and self._keep and self._failure is None

    async def send(self, method: str, target: str, headers: Mapping[str, str], body: bytes, *, timeout_s: float) -> int:
        """Send a request and wait for the answer's headers; returns the status and fills ``headers`` (lower case)."""
        if not self.reusable or self._transport is None:
            raise self._failure or TransportError(f"the connection to {self.endpoint.origin} is not free")
        self.status, self.headers, self._body, self._buffered = 0, {}, [], 0
        self._complete = self._headers_done = self._answered = False
        self._parser = httptools.HttpResponseParser(self)
        lines = [f"{method} {target} HTTP/1.1", f"host: {self.endpoint.host_header}", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        while not self._headers_done:
            await self._wait(timeout_s)
        return self.status

    async def read(self, *, timeout_s: float) -> bytes:
        """The next bytes of the body, all that have arrived; ``b""`` once it is whole."""
        while not self._body:
            if self._complete:
                return b""
            await self._wait(timeout_s)
        data = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body, self._buffered = [], 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return data

    async def read_all(self, *, timeout_s: float) -> bytes:
        """The whole body."""
        parts = []
        while part := await self.read(timeout_s=timeout_s):
            parts.append(part)
        return b"".join(parts)

    def close(self) -> None:
        """Close at once; the far side sees it and stops whatever it was generating."""
        self._keep = False
        if self._transport is not None:
            self._transport.abort()

    async def _wait(self, timeout_s: float) -> None:
        if self._failure is not None:
            raise self._failure
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        self._late_at_s = loop.time() + timeout_s
        if self._clock is None or self._clock.when() > self._late_at_s:
            self._set_clock(loop)
        try:
            await self._waiter
        except TimeoutError:
            self._keep = False
            raise TransportTimeoutError(
                f"{self.endpoint.origin} sent nothing for {timeout_s:g} s", answered=self._answered
            ) from None
        finally:
            self._waiter = None
        if self._failure is not None and not self._body and not self._complete:
            raise self._failure

    def _set_clock(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._clock is not None:
            self._clock.cancel()
        self._clock = loop.call_at(self._late_at_s, self._look_at_clock, loop)

    def _look_at_clock(self, loop: asyncio.AbstractEventLoop) -> None:
        # One timer for many waits: each only says until when, and the timer looks whether that has passed.
        self._clock = None
        if self._waiter is None or self._waiter.done():
            return
        if loop.time() < self._late_at_s:
            self._set_clock(loop)
        else:
            self._waiter.set_exception(TimeoutError())

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport (asyncio.Protocol)."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Parse what arrived and wake the consumer (asyncio.Protocol)."""
        if self._complete or self._parser is None:
            self._fail(f"{self.endpoint.origin} sent bytes that nobody asked for")
            self.close()
            return
        self._answered = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"{self.endpoint.origin} sent something that is not HTTP: {error}")
            self.close()
        if self._buffered > HIGH_WATER_BYTES and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        """The far side is done: close (asyncio.Protocol)."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail whoever waits, and tell the pool (asyncio.Protocol)."""
        reason = f"{type(exc).__name__}: {exc}" if exc else "closed by the far side"
        self._fail(f"the connection to {self.endpoint.origin} was lost ({reason})")
        self._transport = None
        if self._clock is not None:
            self._clock.cancel()
        self._wake()
        if self.on_lost is not None:
            self.on_lost(self)

    def _fail(self, message: str) -> None:
        if self._failure is None:
            self._failure = TransportError(message, answered=self._answered)

    # httptools callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header (httptools)."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """The answer has begun (httptools)."""
        assert self._parser is not None
        self.status = self._parser.get_status_code()
        self._keep = self._parser.should_keep_alive()
        self._headers_done = True

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body (httptools)."""
        self._body.append(body)
        self._buffered += len(body)

    def on_message_complete(self) -> None:
        """The answer is whole (httptools)."""
        self._complete = True
