"""One HTTP/1.1 connection on asyncio: one request at a time, the response's body in the pieces in which it arrives.

httptools (llhttp) parses; this module moves bytes. The consumer is woken once per read of the socket, however many events
that read contained, and reading pauses while more than ``HIGH_WATER_BYTES`` are buffered.
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
    """Host, port, TLS context and base path of a service; ``host_header`` is sent in requests and signed."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    path: str = ""

    @classmethod
    def from_url(cls, url: str, *, ca_file: str | None = None) -> Endpoint:
        """The endpoint of an http or https URL; ``ca_file`` replaces the system's certificate authorities.

        Raises ``TransportError`` for any other URL.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise TransportError(f"URL {url!r}; expected http://host or https://host")
        tls = ssl.create_default_context(cafile=ca_file) if parts.scheme == "https" else None
        return cls(parts.hostname, parts.port or (443 if tls else 80), tls, parts.path.rstrip("/"))

    @property
    def host_header(self) -> str:
        """The ``Host`` header: host and port, without the scheme's default port."""
        standard = 443 if self.tls else 80
        return self.host if self.port == standard else f"{self.host}:{self.port}"

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"{'https' if self.tls else 'http'}://{self.host_header}"


class HttpConnection(asyncio.Protocol):
    """Created by :meth:`open`. Use: ``await send(…)``, then ``await read()`` until it returns ``b""``."""

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
        self._deadline_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    async def open(cls, endpoint: Endpoint, *, timeout_s: float) -> HttpConnection:
        """Connect, including the TLS handshake; raises ``TransportError`` or ``TransportTimeoutError``."""
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
        """Whether another request may be sent: the last response was read completely and both sides keep the connection."""
        return self._complete and self._keep and self._failure is None

    async def send(self, method: str, target: str, headers: Mapping[str, str], body: bytes, *, timeout_s: float) -> int:
        """Send a request and wait for the response's headers; returns the status and sets ``headers`` (names in lower case)."""
        if not self.reusable or self._transport is None:
            raise self._failure or TransportError(f"connection to {self.endpoint.origin} is in use or closed")
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
        """The bytes of the body that have arrived since the last read; ``b""`` at its end."""
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
        """The rest of the body, to its end."""
        parts = []
        while part := await self.read(timeout_s=timeout_s):
            parts.append(part)
        return b"".join(parts)

    def close(self) -> None:
        """Close at once; a model that is generating stops."""
        self._keep = False
        if self._transport is not None:
            self._transport.abort()

    async def _wait(self, timeout_s: float) -> None:
        if self._failure is not None:
            raise self._failure
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        self._deadline_s = loop.time() + timeout_s
        if self._timer is None or self._timer.when() > self._deadline_s:
            self._start_timer(loop)
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

    def _start_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(self._deadline_s, self._check_deadline, loop)

    def _check_deadline(self, loop: asyncio.AbstractEventLoop) -> None:
        # One timer serves many waits: each wait only moves its deadline, which the timer checks when it fires.
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        if loop.time() < self._deadline_s:
            self._start_timer(loop)
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
            self._fail(f"{self.endpoint.origin} sent {len(data)} bytes without a request; expected none")
            self.close()
            return
        self._answered = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"{self.endpoint.origin} sent an invalid HTTP response: {error}")
            self.close()
        if self._buffered > HIGH_WATER_BYTES and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        """The peer closed its side: close ours (asyncio.Protocol)."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the waiting read and notify the pool (asyncio.Protocol)."""
        reason = f"{type(exc).__name__}: {exc}" if exc else "closed by the peer"
        self._fail(f"connection to {self.endpoint.origin} lost ({reason})")
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        self._wake()
        if self.on_lost is not None:
            self.on_lost(self)

    def _fail(self, message: str) -> None:
        if self._failure is None:
            self._failure = TransportError(message, answered=self._answered)

    # httptools callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        """Store one header (httptools)."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Store status and keep-alive (httptools)."""
        assert self._parser is not None
        self.status = self._parser.get_status_code()
        self._keep = self._parser.should_keep_alive()
        self._headers_done = True

    def on_body(self, body: bytes) -> None:
        """Buffer a piece of the body (httptools)."""
        self._body.append(body)
        self._buffered += len(body)

    def on_message_complete(self) -> None:
        """The response is complete (httptools)."""
        self._complete = True
