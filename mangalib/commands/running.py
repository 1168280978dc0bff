"""What commands share: the service they use, and SIGTERM handled like Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from mangalib.errors import SettingsError
from mangalib.settings import load_settings


@contextmanager
def running_service(*, quiet: bool) -> Iterator[tuple[str, str]]:
    """Yield URL and token of the service named by the settings, else of a local stack that runs for the block."""
    settings = load_settings()
    with sigterm_as_interrupt():
        if settings.websocket_url is not None:
            if settings.token is None:
                raise SettingsError("MANGA_TOKEN is not set; expected the JWT that goes with MANGA_WEBSOCKET_URL")
            yield settings.websocket_url, settings.token.get_secret_value()
            return
        from mangalib.local import running_stack

        with running_stack(quiet=quiet) as stack:
            yield stack.addresses["websocket_url"], stack.addresses["token"]


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` on SIGTERM too, so that both take the same clean-up path."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
