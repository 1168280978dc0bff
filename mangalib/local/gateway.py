"""A stand-in for API Gateway WebSocket APIs: route selection, quotas, time-outs, and the management API.

Clients connect by WebSocket to one port. Each message is sent to the back end as one POST with ``connectionId`` and
``routeKey`` in headers; the back end replies through ``@connections`` on the other port.
"""

from __future__ import annotations

import asyncio
import http
import json
import logging
import os
import random
import secrets
import time
import zlib
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import aiohttp
import msgspec
from aiohttp import web
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websocket
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from mangalib.chat import SHOP_PATH, Page
from mangalib.domain import Catalogue
from mangalib.local import sigv4
from mangalib.local.faults import FaultInjector
from mangalib.local.seed import DEMO_CUSTOMER
from mangalib.local.service import Announce
from mangalib.serving import issue_token
from mangalib.settings import LocalGatewaySettings

log = logging.getLogger(__name__)

STAGE = "prod"
ROUTES = frozenset({"query", "ping", "disconnect", "resume"})
FAULT_KINDS = ("throttle", "reset", "stall", "internal")
CLOSE_GOING_AWAY = 1001


@dataclass
class Connection:
    """A client's connection, from the end of the handshake until it is closed."""

    connection_id: str
    socket: ServerConnection
    source_ip: str
    user_agent: str
    connected_at: float = field(default_factory=time.time)
    last_active_at: float = field(default_factory=time.time)
    outbox: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)
    buffered_bytes: int = 0


class GatewayStandIn:
    """The gateway towards clients and back ends. ``PUT /_local/integration`` sets the addresses of the back ends."""

    def __init__(self, settings: LocalGatewaySettings, http_client: aiohttp.ClientSession) -> None:
        self._settings = settings
        self._backends: list[str] = []
        self._http = http_client
        self._connections: dict[str, Connection] = {}
        self._handshakes: deque[float] = deque()
        self._faults = FaultInjector(FAULT_KINDS, random.Random(settings.local_seed))
        self.page: Page | None = None

    # Towards clients

    async def upgrade(self, socket: ServerConnection, request: Request) -> Response | None:
        """Check quotas and call ``$connect`` while the upgrade is pending; a returned response refuses the connection."""
        if len(request.path) > self._settings.max_url_chars:
            return _refusal(http.HTTPStatus.REQUEST_URI_TOO_LONG)
        parts = urlsplit(request.path)
        if parts.path.rstrip("/") != f"/{STAGE}":
            return _refusal(http.HTTPStatus.FORBIDDEN)
        if len(self._connections) >= self._settings.max_connections or not self._admit():
            return _refusal(http.HTTPStatus.TOO_MANY_REQUESTS)
        connection_id = secrets.token_urlsafe(11) + "="
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        headers: dict[str, str] = {name: query[name] for name in ("token", "session") if name in query}
        if "Authorization" in request.headers:
            headers["Authorization"] = request.headers["Authorization"]
        status = await self._integrate(connection_id, "$connect", b"", headers)
        if status >= 300:
            return _refusal(http.HTTPStatus.UNAUTHORIZED if status == 401 else http.HTTPStatus.FORBIDDEN)
        address = socket.remote_address
        socket.manga_connection = Connection(  # type: ignore[attr-defined]
            connection_id, socket, address[0] if address else "", request.headers.get("User-Agent", "")
        )
        return None

    async def serve_client(self, socket: ServerConnection) -> None:
        """Serve one connection from the end of the handshake until it is closed."""
        connection: Connection = socket.manga_connection  # type: ignore[attr-defined]
        self._connections[connection.connection_id] = connection
        try:
            async with asyncio.TaskGroup() as group:
                helpers = [
                    group.create_task(self._write(connection)),
                    group.create_task(self._enforce_time_outs(connection)),
                ]
                try:
                    async for message in socket:
                        connection.last_active_at = time.time()
                        body = message.encode() if isinstance(message, str) else message
                        await self._route(connection, body)
                except ConnectionClosed as closed:
                    log.debug("connection closed: %s", closed)
                for helper in helpers:
                    helper.cancel()
        finally:
            del self._connections[connection.connection_id]
            reason = {"disconnectStatusCode": str(socket.close_code or 1006)}
            await self._integrate(connection.connection_id, "$disconnect", b"", reason)

    async def _route(self, connection: Connection, body: bytes) -> None:
        status = await self._integrate(connection.connection_id, _route_key(body), body, {})
        if status >= 400:
            text = {"message": "Internal server error", "connectionId": connection.connection_id}
            await connection.socket.send(json.dumps({**text, "requestId": secrets.token_urlsafe(11) + "="}))

    async def _integrate(self, connection_id: str, route_key: str, body: bytes, headers: dict[str, str]) -> int:
        """POST to the back end; returns its status, 504 after the time-out, 500 when it is unreachable."""
        sent = {"connectionId": connection_id, "routeKey": route_key, **headers}
        timeout = aiohttp.ClientTimeout(total=self._settings.integration_timeout_s)
        # A connection always goes to the same back end, as with a load balancer's sticky sessions.
        backend = self._backends[zlib.crc32(connection_id.encode()) % len(self._backends)] if self._backends else ""
        try:
            async with self._http.post(backend, data=body, headers=sent, timeout=timeout) as response:
                await response.read()
                return response.status
        except TimeoutError:
            return 504
        except (aiohttp.ClientError, ValueError, OSError) as error:
            log.warning("back end %r unreachable: %s", backend, type(error).__name__)
            return 500

    def _admit(self) -> bool:
        now = time.monotonic()
        while self._handshakes and self._handshakes[0] < now - 1:
            self._handshakes.popleft()
        if len(self._handshakes) >= self._settings.new_connections_per_second:
            return False
        self._handshakes.append(now)
        return True

    async def _write(self, connection: Connection) -> None:
        """Write a connection's outbox; while the client reads slowly this waits, and posts beyond the buffer are refused."""
        try:
            while True:
                frame = await connection.outbox.get()
                await connection.socket.send(frame.decode())
                connection.buffered_bytes -= len(frame)
                connection.last_active_at = time.time()
        except (ConnectionClosed, UnicodeDecodeError) as closed:
            log.debug("stopped writing: %s", closed)

    async def _enforce_time_outs(self, connection: Connection) -> None:
        """Close the connection after its idle time-out or its maximum lifetime."""
        settings = self._settings
        while True:
            idle_left_s = connection.last_active_at + settings.idle_timeout_s - time.time()
            life_left_s = connection.connected_at + settings.connection_lifetime_s - time.time()
            if min(idle_left_s, life_left_s) <= 0:
                await connection.socket.close(CLOSE_GOING_AWAY, "Going away")
                return
            await asyncio.sleep(min(idle_left_s, life_left_s))

    # Towards back ends

    async def management(self, request: web.BaseRequest) -> web.StreamResponse:
        """Handle a request to ``@connections``, the chat's page, or the admin interface."""
        path = unquote(request.raw_path.partition("?")[0])
        admin = path.removeprefix(f"/{STAGE}")
        if admin.startswith("/_local/"):
            return await self._admin(request.method, admin.removeprefix("/_local/"), await request.read())
        if self.page is not None and (page := self.page.respond(request, path)) is not None:
            return page
        prefix = f"/{STAGE}/@connections/"
        if not path.startswith(prefix):
            return _response(403, "ForbiddenException", "Forbidden")
        body = await request.read()
        if (fault := self._faults.next_for_request()) is not None:
            match fault.kind:
                case "throttle":
                    return _response(429, "LimitExceededException", "Rate exceeded")
                case "internal":
                    return _response(500, "InternalServerError", "Internal server error")
                case "reset":
                    assert request.transport is not None
                    request.transport.abort()
                case "stall":
                    await self._faults.hold(fault)
        problem = self._verify_signature(request, body)
        if problem is not None:
            return _response(403, "ForbiddenException", problem)
        connection = self._connections.get(path.removeprefix(prefix))
        if connection is None:
            return _response(410, "GoneException", "")
        match request.method:
            case "POST":
                return self._post(connection, body)
            case "GET":
                return _describe(connection)
            case "DELETE":
                await connection.socket.close(CLOSE_GOING_AWAY, "Going away")
                return web.Response(status=204)
        return _response(403, "ForbiddenException", "Forbidden")

    def _post(self, connection: Connection, body: bytes) -> web.Response:
        if len(body) > self._settings.max_message_bytes:
            return _response(413, "PayloadTooLargeException", "Message too long")
        if connection.buffered_bytes + len(body) > self._settings.local_client_buffer_bytes:
            return _response(429, "LimitExceededException", "The client's buffer is full")
        connection.buffered_bytes += len(body)
        connection.outbox.put_nowait(body)
        return web.Response()

    def _verify_signature(self, request: web.BaseRequest, body: bytes) -> str | None:
        return sigv4.verify_signature(
            method=request.method,
            url=f"http://{request.headers['Host']}{request.raw_path}",
            headers={name.lower(): value for name, value in request.headers.items()},
            body=body,
            service="execute-api",
            region=self._settings.region,
            access_key=os.environ["AWS_ACCESS_KEY_ID"],
            secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        )

    async def _admin(self, method: str, path: str, body: bytes) -> web.Response:
        try:
            match method, path:
                case "PUT", "integration":
                    self._backends = msgspec.json.decode(body, type=dict[str, list[str]])["urls"]
                    return web.json_response({"urls": self._backends})
                case "GET", "connections":
                    return web.json_response(
                        [{"id": c.connection_id, "user_agent": c.user_agent} for c in self._connections.values()]
                    )
                case "DELETE", "connections":
                    for connection in self._connections.values():
                        connection.socket.transport.abort()
                    return web.json_response({"dropped": len(self._connections)})
                case "POST" | "DELETE", "faults":
                    return web.json_response(self._faults.change(method, body))
        except (ValueError, KeyError) as error:
            return web.json_response({"message": str(error)}, status=400)
        return web.json_response({"message": f"no {method} {path}"}, status=404)


def _route_key(body: bytes) -> str:
    try:
        message = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return "$default"
    action = message.get("action") if isinstance(message, dict) else None
    return action if isinstance(action, str) and action in ROUTES else "$default"


def _describe(connection: Connection) -> web.Response:
    return web.json_response(
        {
            "connectedAt": _timestamp(connection.connected_at),
            "lastActiveAt": _timestamp(connection.last_active_at),
            "identity": {"sourceIp": connection.source_ip, "userAgent": connection.user_agent},
        }
    )


def _timestamp(epoch_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(epoch_s)) + f".{int(epoch_s % 1 * 1000):03d}Z"


def _response(status: int, name: str, message: str) -> web.Response:
    return web.json_response({"message": message}, status=status, headers={"x-amzn-ErrorType": name})


def _refusal(status: http.HTTPStatus) -> Response:
    body = json.dumps({"message": status.phrase}).encode()
    headers = Headers({"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"})
    return Response(status.value, status.phrase, headers, body)


async def serve(settings: LocalGatewaySettings, announce: Announce) -> None:
    """Run until cancelled."""
    connector = aiohttp.TCPConnector(limit=256)
    async with aiohttp.ClientSession(connector=connector) as http_client:
        gateway = GatewayStandIn(settings, http_client)
        server = web.Server(gateway.management, access_log=None, keepalive_timeout=settings.local_idle_close_s)
        listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0, backlog=1024)
        management = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        options: dict[str, Any] = {
            "process_request": gateway.upgrade,
            "max_size": (settings.max_message_bytes, settings.max_frame_bytes),
            "compression": None,
            "ping_interval": None,
            "close_timeout": 2,
            "write_limit": 16 * 1024,
            "server_header": None,
            "backlog": 1024,
        }
        async with serve_websocket(gateway.serve_client, "127.0.0.1", 0, **options) as sockets:
            port = next(iter(sockets.sockets)).getsockname()[1]
            addresses = {
                "websocket_url": f"ws://127.0.0.1:{port}/{STAGE}",
                "management_url": f"{management}/{STAGE}",
                "page_url": f"{management}/",
                "shop_url": f"{management}{SHOP_PATH}",
            }
            with_shop = settings.model_copy(update={"shop_url": addresses["shop_url"]})
            gateway.page = Page(
                with_shop,
                Catalogue.load(settings.data_dir / "catalogue.csv"),
                addresses["page_url"],
                addresses["websocket_url"],
                issue_token=partial(issue_token, settings, DEMO_CUSTOMER),
            )
            announce(addresses)
            try:
                await asyncio.Event().wait()
            finally:
                listener.close()
                await server.shutdown(timeout=0.1)
