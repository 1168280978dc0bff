"""What a notebook talks to: the service that the settings name, or a local stack that it starts."""

from __future__ import annotations

import atexit
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Any

import boto3

from mangalib.aws import DocumentTable
from mangalib.client import Client
from mangalib.domain import ReleaseStore
from mangalib.errors import ReleaseError, SettingsError
from mangalib.settings import Settings, load_settings

if TYPE_CHECKING:
    from mangalib.chat import Chat
    from mangalib.local import Stack


class Laboratory:
    """A connection to a service, opened once per notebook; closed by :meth:`close` or when the kernel ends.

    ``stack`` is ``None`` when the notebook talks to a service that runs elsewhere. Raises ``SettingsError`` for a wrong
    setting and ``StackError`` when the local stack does not start.
    """

    def __init__(self, *, own_stack: bool = False, **settings: Any) -> None:
        """Connect to the service, or start a local stack with ``settings`` (by name).

        With ``own_stack`` a local stack is started even where the settings name a service: for experiments that must never
        affect customers.
        """
        self._closing = ExitStack()
        self.settings: Settings = load_settings(**settings)
        self.stack: Stack | None = None
        if own_stack or self.settings.websocket_url is None:
            # Scheduled jobs talk to a service, and their image has no stand-ins.
            from mangalib.local import running_stack

            self.stack = self._closing.enter_context(running_stack(**settings))
            self.settings = self.stack.settings
            self._url, self._token = self.stack.addresses["websocket_url"], self.stack.addresses["token"]
        else:
            if self.settings.token is None:
                raise SettingsError("MANGA_TOKEN is not set; expected the JWT that goes with MANGA_WEBSOCKET_URL")
            self._url, self._token = self.settings.websocket_url, self.settings.token.get_secret_value()
        atexit.register(self.close)

    @property
    def timing_note(self) -> str:
        """Where the figures of this laboratory come from; every plot of them carries it."""
        if self.stack is None:
            return "measured against the service named in the settings"
        return "local stack: the model's and the search's times come from a model of latency, not from the cloud"

    @cached_property
    def dynamodb(self) -> Any:
        """A client for the service's DynamoDB that takes plain Python values."""
        return boto3.resource("dynamodb", **self._aws).meta.client

    @cached_property
    def releases(self) -> ReleaseStore:
        """The service's releases."""
        return ReleaseStore(
            DocumentTable(self.dynamodb, self.settings.releases_table, key="release", error=ReleaseError)
        )

    @cached_property
    def sns(self) -> Any:
        """A client for the service's SNS."""
        return boto3.client("sns", **self._aws)

    @property
    def _aws(self) -> dict[str, Any]:
        options = {"endpoint_url": self.settings.aws_url, "region_name": self.settings.region}
        if self.stack is not None:
            for name in ("aws_access_key_id", "aws_secret_access_key"):
                options[name] = self.stack.addresses[name]
        return options

    def client(self, session_id: str | None = None) -> Client:
        """A client for a new conversation, or for an existing session; enter it with ``async with``."""
        return Client(self._url, self._token, session_id=session_id, settings=self.settings)

    def chat(self, *, heading: str = "", lang: str = "auto") -> Chat:
        """A chat widget with a new conversation, for a notebook that is open in a browser."""
        from mangalib.chat import Chat

        return Chat(self._url, self._token, heading=heading, lang=lang, settings=self.settings)

    def close(self) -> None:
        """Stop the local stack if one was started."""
        atexit.unregister(self.close)
        self._closing.close()
