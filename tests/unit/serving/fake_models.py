"""A model transport without a network: it replies with what a test scripts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from mangalib.aws import ClaudeRequest, Delta, MessageStart, ModelEvent, ModelRequest, Usage


def delta(text: str) -> ModelEvent:
    return ModelEvent("content_block_delta", delta=Delta(text))


def whole(*texts: str, tokens: int = 7, input_tokens: int = 12) -> list[ModelEvent]:
    """A complete reply, as Claude 3 sends it."""
    return [
        ModelEvent("message_start", message=MessageStart(Usage(input_tokens, 1))),
        ModelEvent("ping"),
        *(delta(text) for text in texts),
        ModelEvent("message_delta", delta=Delta(stop_reason="end_turn"), usage=Usage(output_tokens=tokens)),
        ModelEvent("message_stop"),
    ]


class FakeModels:
    """Each request takes the next of ``script``: events one at a time, then an error if the last item is one."""

    def __init__(self, *script: Sequence[ModelEvent | Exception]) -> None:
        self.requests: list[ClaudeRequest] = []
        self.closed = 0
        self._script = list(script)

    @asynccontextmanager
    async def stream(self, model_id: str, request: ClaudeRequest) -> AsyncIterator[AsyncIterator[list[ModelEvent]]]:
        self.requests.append(request)
        try:
            yield self._events(self._script.pop(0))
        finally:
            self.closed += 1

    async def invoke(self, model_id: str, request: ModelRequest) -> bytes:
        return b"{}"

    async def _events(self, script: Sequence[ModelEvent | Exception]) -> AsyncIterator[list[ModelEvent]]:
        for item in script:
            if isinstance(item, Exception):
                raise item
            yield [item]
