"""The chat as a notebook widget around the element in ``chat.js``."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anywidget
import pandas as pd
import traitlets

from mangalib.chat.browser_settings import browser_settings
from mangalib.chat.timeline import timeline_table
from mangalib.errors import SettingsError
from mangalib.settings import ChatSettings, load_settings

_HERE = Path(__file__).parent


class Chat(anywidget.AnyWidget):
    """A conversation in a cell's output; the browser connects to ``url`` with ``token``.

    Raises ``SettingsError`` for a ``url`` that is not a WebSocket URL, and for an empty token.

    The token is sent as a message and is never part of the widget's state, which a saved notebook contains. Setting
    ``chat.token`` makes the chat use a new one.

    >>> chat = Chat("ws://127.0.0.1:8765/prod", "a token")
    >>> chat.timeline.empty
    True
    """

    _esm = _HERE / "chat.js"
    _css = _HERE / "chat.css"
    lang = traitlets.Enum(["auto", "en", "ja"], "auto").tag(sync=True)
    heading = traitlets.Unicode("").tag(sync=True)

    def __init__(
        self, url: str, token: str, *, heading: str = "", lang: str = "auto", settings: ChatSettings | None = None
    ) -> None:
        if urlsplit(url).scheme not in {"ws", "wss"}:
            raise SettingsError(f"url={url!r}; expected ws://... or wss://...")
        if not token:
            raise SettingsError("token is empty; expected a JWT")
        super().__init__(heading=heading, lang=lang)
        self._url = url
        self._token = token
        self._figures = browser_settings(settings or load_settings())
        self._rows: list[dict[str, Any]] = []
        self.on_msg(self._received)

    @property
    def token(self) -> str:
        """The JWT with which the browser connects."""
        return self._token

    @token.setter
    def token(self, token: str) -> None:
        self._token = token
        self._connect()

    @property
    def timeline(self) -> pd.DataFrame:
        """The browser's measurements so far, one row per event, in ms since the question was sent.

        ``event`` is ``sent``, ``instant`` (the typing indicator), ``status``, ``first_token``, ``card``, ``slowest_text`` (the
        text that waited longest to be painted) and ``done``, ``error`` or ``lost``; ``detail`` specifies it.
        ``received_ms`` is when the frame arrived, ``painted_ms`` when the browser had painted it, and ``animation_frames``
        the number of browser frames in between. The last two are missing while the page is hidden, and for a status that
        was replaced before it could be painted.
        """
        return timeline_table(self._rows)

    def _received(self, widget: Any, content: dict[str, Any], buffers: list[bytes]) -> None:
        match content:
            case {"kind": "ready"}:
                self._connect()
            case {"kind": "timeline", "rows": rows}:
                self._rows += rows
                del self._rows[: -self._figures["timeline_rows_max"]]

    def _connect(self) -> None:
        self.send({"kind": "connect", "url": self._url, "token": self._token, "figures": self._figures})
