"""The one seam to a model: two methods that our own HTTP client, boto3 or a fake can stand behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from mangalib.aws.model_messages import ClaudeRequest, ModelEvent, ModelRequest


class ModelTransport(Protocol):
    """Both methods raise ``BusyError``, ``BedrockError`` or ``TransportError``, and retry nothing."""

    def stream(
        self, model_id: str, request: ClaudeRequest
    ) -> AbstractAsyncContextManager[AsyncIterator[list[ModelEvent]]]:
        """Invoke with a response stream. The events come in the groups in which they arrived.

        Leaving the block early must stop the generation. A stream that ends without ``message_stop`` was cut.
        """
        ...

    async def invoke(self, model_id: str, request: ModelRequest) -> bytes:
        """Invoke and wait for the whole answer, as JSON."""
        ...
