"""Hedged requests: a late model is invoked a second time, and the first reply wins (Dean and Barroso 2013).

"Late" is relative to the model's own recent first-token times. More requests are late than the budget allows to hedge; those that
have waited longest are hedged first. The losing connection is closed at once, which stops its generation.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from mangalib.aws.model_messages import ClaudeRequest, ModelEvent
from mangalib.aws.model_transport import ModelTransport
from mangalib.resilience import RetryBudget
from mangalib.settings import HedgeSettings

BUDGET_AGAIN_S = 0.05


class Hedge:
    """Decides when a model is late and whether a second request may be sent; one per process, without I/O.

    The threshold lies as far beyond the ``hedge_quantile`` of the model's last ``hedge_answers`` first-token times as that
    quantile lies beyond their median (a fence, as in Tukey 1977). At the quantile itself more requests would be late than the
    budget allows, and most of those would need only a moment more.
    """

    def __init__(self, settings: HedgeSettings) -> None:
        self.hedged = 0
        self._settings = settings
        self._budget = RetryBudget(settings.hedge_share, settings.hedge_burst)
        self._first_token_s: dict[str, deque[float]] = {}

    def late_after_s(self, model_id: str) -> float | None:
        """Seconds without a token after which a model is late; ``None`` while too few times are known, or hedging is off."""
        settings, times = self._settings, sorted(self._first_token_s.get(model_id, ()))
        if not settings.hedge_share or len(times) < settings.hedge_answers_min:
            return None
        usual_s, rare_s = times[len(times) // 2], times[int(settings.hedge_quantile * (len(times) - 1))]
        return 2 * rare_s - usual_s

    def invoked(self) -> None:
        """A model was invoked; this deposits a share of a second request."""
        self._budget.deposit()

    def withdraw(self) -> bool:
        """Whether a second request may be sent now; a granted one is counted."""
        allowed = self._budget.withdraw()
        self.hedged += allowed
        return allowed

    def answered(self, model_id: str, first_token_s: float) -> None:
        """Record the time from the first request to the first token, whichever request brought it.

        Measuring from the first request matters: with the winner's own time alone, the threshold would shrink with every hedge
        and cause more hedges.
        """
        recent = self._first_token_s.setdefault(model_id, deque(maxlen=self._settings.hedge_answers))
        recent.append(first_token_s)


class HedgedStream:
    """One invocation, read up to its first text. Iterating yields the groups of events from the start."""

    def __init__(self, models: ModelTransport, model_id: str, request: ClaudeRequest) -> None:
        self.answered_s = 0.0
        self._invocation = models.stream(model_id, request)
        self._open = AsyncExitStack()
        self._until_text: list[list[ModelEvent]] = []
        self._rest: AsyncIterator[list[ModelEvent]]

    async def until_text(self) -> None:
        """Invoke the model and read until there is text or the stream ends; raises as ``ModelTransport.stream`` does."""
        self._rest = await self._open.enter_async_context(self._invocation)
        self.answered_s = time.monotonic()
        async for events in self._rest:
            self._until_text.append(events)
            if any(event.text for event in events):
                return

    async def __aiter__(self) -> AsyncIterator[list[ModelEvent]]:
        """Yields non-empty lists of events until the stream ends; raises as ``ModelTransport.stream`` does."""
        for events in self._until_text:
            yield events
        async for events in self._rest:
            yield events

    async def close(self) -> None:
        """Close the connection, unless the reply was read to its end."""
        await self._open.aclose()


@asynccontextmanager
async def hedged_stream(
    models: ModelTransport, hedge: Hedge, model_id: str, request: ClaudeRequest
) -> AsyncIterator[HedgedStream]:
    """The stream of the invocation that brings text first; leaving the block early closes its connection.

    Raises as ``ModelTransport.stream`` does; with two invocations under way, only when both have failed.
    """
    streams: dict[asyncio.Task[None], HedgedStream] = {}

    def invoke() -> None:
        stream = HedgedStream(models, model_id, request)
        streams[asyncio.create_task(stream.until_text())] = stream

    started_s = time.monotonic()
    hedge.invoked()
    invoke()
    try:
        done, _ = await asyncio.wait(streams, timeout=hedge.late_after_s(model_id))
        while not done and not hedge.withdraw():
            # Of the late requests, those that still wait when the budget allows another one need it most.
            done, _ = await asyncio.wait(streams, timeout=BUDGET_AGAIN_S)
        if not done:
            invoke()
        winner = await _first_that_succeeds(list(streams))
        hedge.answered(model_id, time.monotonic() - started_s)
        await _close(streams, but=winner)
        yield streams[winner]
    finally:
        await _close(streams)


async def _first_that_succeeds(tasks: list[asyncio.Task[None]]) -> asyncio.Task[None]:
    waiting = set(tasks)
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if not task.cancelled() and task.exception() is None:
                return task
    tasks[0].result()  # raises the first one's error
    raise AssertionError("unreachable")


async def _close(streams: dict[asyncio.Task[None], HedgedStream], but: asyncio.Task[None] | None = None) -> None:
    for task in [task for task in streams if task is not but]:
        stream = streams.pop(task)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not report it as never retrieved
        await stream.close()
