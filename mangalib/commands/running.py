"""What commands share: the service they talk to, and a clean end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from mangalib.errors import SettingsError
from mangalib.settings import load_settings


@contextmanager
def running_service(*, quiet: bool) -> Iterator[tuple[str, str]]:
    """Address and token of the service that the settings name, else of a local stack for the length of the block."""
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
    """End on SIGTERM as on Ctrl-C: through the same clean-up."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
