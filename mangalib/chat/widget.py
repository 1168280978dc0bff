"""The chat as a notebook's widget: the same element that the page shows, measuring itself at the moment of painting."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anywidget
import pandas as pd
import traitlets

from mangalib.chat.browser_settings import figures_for_browser
from mangalib.chat.timeline import timeline_table
from mangalib.errors import SettingsError
from mangalib.settings import Settings, load_settings

_HERE = Path(__file__).parent


class Chat(anywidget.AnyWidget):
    """A conversation in a cell's output; the browser talks to ``url`` itself, with ``token``.

    Raises ``SettingsError`` for a ``url`` that is no WebSocket's, and for an empty token.

    The token travels in a message and is never part of the widget's state, which a saved notebook keeps. After
    ``chat.token = ...`` the chat goes on with the new one.

    >>> chat = Chat("ws://127.0.0.1:8765/prod", "a token")
    >>> chat.timeline.empty
    True
    """

    _esm = _HERE / "chat.js"
    _css = _HERE / "chat.css"
    lang = traitlets.Enum(["auto", "en", "ja"], "auto").tag(sync=True)
    heading = traitlets.Unicode("").tag(sync=True)

    def __init__(
        self, url: str, token: str, *, heading: str = "", lang: str = "auto", settings: Settings | None = None
    ) -> None:
        if urlsplit(url).scheme not in {"ws", "wss"}:
            raise SettingsError(f"url={url!r}; expected ws://... or wss://...")
        if not token:
            raise SettingsError("token is empty; expected a JWT")
        super().__init__(heading=heading, lang=lang)
        self._url = url
        self._token = token
        self._figures = figures_for_browser(settings or load_settings())
        self._rows: list[dict[str, Any]] = []
        self.on_msg(self._received)

    @property
    def token(self) -> str:
        """The JWT that the browser connects with."""
        return self._token

    @token.setter
    def token(self, token: str) -> None:
        self._token = token
        self._connect()

    @property
    def timeline(self) -> pd.DataFrame:
        """What the browser has measured so far, a row an event, in ms since the question was sent.

        ``event`` is ``sent``, ``instant`` (the typing indicator), ``status``, ``first_token``, ``card``, ``slowest_text`` (of
        all text, what waited longest to be painted) and ``done``, ``error`` or ``lost``; ``detail`` says which.
        ``received_ms`` is when its frame came, ``painted_ms`` when the browser had painted it, ``animation_frames`` how many of
        the browser's frames that took. Both are missing while the page is hidden, and for a status that the next frame
        replaced before it could be painted.
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
