"""The chat as a page: the same element as in a notebook, served on loopback beside the local gateway."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web

from mangalib.chat.browser_settings import browser_settings
from mangalib.domain import Catalogue
from mangalib.settings import ChatSettings

_HERE = Path(__file__).parent
_FILES = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
    "/chat.js": ("chat.js", "text/javascript"),
    "/chat.css": ("chat.css", "text/css"),
}
SHOP_PATH = "/shop"


class Page:
    """Serves the page's files, ``/connect.json`` (gateway URL, token, settings) and a placeholder for the shop.

    Only browsers on this machine are served, and the token is given to this page only.
    """

    def __init__(
        self,
        settings: ChatSettings,
        catalogue: Catalogue,
        page_url: str,
        websocket_url: str,
        *,
        issue_token: Callable[[], str],
    ) -> None:
        self._issue_token = issue_token
        self._host = urlsplit(page_url).netloc
        self._websocket_url = websocket_url
        self._catalogue = catalogue
        self._figures = browser_settings(settings)
        socket = urlsplit(websocket_url)
        self._headers = {
            # Only these files may run, and only the page's host and the gateway may be contacted.
            "Content-Security-Policy": (
                "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
                f"connect-src 'self' {socket.scheme}://{socket.netloc}; "
                "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
            ),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }

    def respond(self, request: web.BaseRequest, path: str) -> web.Response | None:
        """The response for ``path``, or ``None`` when the path does not belong to the page."""
        if request.method != "GET" or not (
            path in _FILES or path == "/connect.json" or path.startswith(f"{SHOP_PATH}/")
        ):
            return None
        # Against DNS rebinding: another site's name that resolves to this machine must not reach the page.
        if request.headers.get("Host") != self._host:
            return web.Response(status=403, text=f"This page is at http://{self._host}/\n")
        if path == "/connect.json":
            if request.headers.get("Sec-Fetch-Site", "same-origin") not in {"same-origin", "none"}:
                return web.Response(status=403, text="Only for the page itself.\n")
            return web.json_response(
                {
                    "url": self._websocket_url,
                    "token": self._issue_token(),
                    "figures": self._figures,
                },
                headers=self._headers,
            )
        if path in _FILES:
            name, kind = _FILES[path]
            body = (_HERE / name).read_bytes()
            return web.Response(body=body, content_type=kind, charset="utf-8", headers=self._headers)
        return self._shop(path)

    def _shop(self, path: str) -> web.Response:
        title = self._catalogue.by_id.get(path.rpartition("/")[2])
        if title is None:
            return web.Response(status=404, text="The shop has no such title.\n")
        text = f"Here the shop would sell {title.title}, {title.price_usd:.2f} USD a volume.\n"
        return web.Response(text=text, headers=self._headers)
