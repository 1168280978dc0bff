"""A stand-in for PagerDuty: validates events as Events API v2 does and lists them at ``/_local/events``."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from aiohttp import web

from mangalib.local.service import Announce
from mangalib.settings import LocalSettings

_ACTIONS = ("trigger", "acknowledge", "resolve")
_SEVERITIES = ("critical", "error", "warning", "info")


class PagerDutyStandIn:
    """The service's HTTP interface; it pages no one."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Handle a request of the service or of its admin interface."""
        match request.method, request.path:
            case "POST", "/v2/enqueue":
                return self._enqueue(await request.read())
            case "GET", "/_local/events":
                return web.json_response(self.events)
        return web.json_response({"message": f"no {request.method} {request.path}"}, status=404)

    def _enqueue(self, body: bytes) -> web.Response:
        try:
            event = msgspec.json.decode(body, type=dict[str, Any])
        except msgspec.DecodeError as error:
            return _refused([str(error)])
        problems = [f"'{name}' is missing or blank" for name in ("routing_key", "event_action") if not event.get(name)]
        if event.get("event_action") not in _ACTIONS:
            problems.append(f"'event_action' is none of {', '.join(_ACTIONS)}")
        if event.get("event_action") == "trigger":
            payload = event.get("payload") or {}
            problems += [
                f"'payload.{name}' is missing or blank" for name in ("summary", "source") if not payload.get(name)
            ]
            if payload.get("severity") not in _SEVERITIES:
                problems.append(f"'payload.severity' is none of {', '.join(_SEVERITIES)}")
        if problems:
            return _refused(problems)
        self.events.append({name: value for name, value in event.items() if name != "routing_key"})
        answer = {"status": "success", "message": "Event processed", "dedup_key": event.get("dedup_key", "")}
        return web.json_response(answer, status=202)


def _refused(problems: list[str]) -> web.Response:
    return web.json_response(
        {"status": "invalid event", "message": "Event object is invalid", "errors": problems}, status=400
    )


async def serve(settings: LocalSettings, announce: Announce) -> None:
    """Run until cancelled."""
    server = web.Server(PagerDutyStandIn().handle, access_log=None)
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    announce({"pagerduty_url": f"http://127.0.0.1:{port}/v2/enqueue", "pagerduty_routing_key": "local"})
    try:
        await asyncio.Event().wait()
    finally:
        listener.close()
        await server.shutdown(timeout=0.1)
