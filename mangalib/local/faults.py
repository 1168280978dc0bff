"""Faults that a test or a notebook orders from a stand-in: ``POST /_local/faults``, ``DELETE /_local/faults``."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

import msgspec

KINDS = (
    "throttle",
    "reset",
    "stall",
    "model_stream_error",
    "bad_json",
    "internal",
    "slow_first_token",
)


class Fault(msgspec.Struct, forbid_unknown_fields=True):
    """One order: what happens, after how many events, how often at most, how likely each time, and for how long.

    ``before_event`` names the type of the stream's event that it happens before, instead of a number of events.
    ``delay_ms`` is how long a stall or a slow first token lasts; a stall without one lasts until the client gives up. Both end
    when all orders are forgotten.
    """

    kind: str
    after_events: int = 0
    before_event: str = ""
    times: int = 1
    probability: float = 1.0
    delay_ms: float = 0.0

    def strikes(self, number: int, event_type: str) -> bool:
        """Whether its place in a stream is before that event."""
        return event_type == self.before_event if self.before_event else number == self.after_events

    @property
    def at_once(self) -> bool:
        """Whether its place is before anything is answered."""
        return self.after_events == 0 and not self.before_event


class FaultBook:
    """The orders of one stand-in. Each request asks once whether something is ordered for it."""

    def __init__(self, kinds: tuple[str, ...], rng: random.Random) -> None:
        self._kinds = kinds
        self._rng = rng
        self._orders: list[Fault] = []
        self._forgotten = asyncio.Event()
        self.holding = 0

    def order(self, body: bytes) -> None:
        """Take an order as JSON; raises ``ValueError`` naming what is wrong with it."""
        try:
            fault = msgspec.json.decode(body, type=Fault)
        except msgspec.DecodeError as error:
            raise ValueError(str(error)) from None
        if fault.kind not in self._kinds:
            raise ValueError(f"kind: {fault.kind!r}; expected one of {', '.join(self._kinds)}")
        if fault.after_events < 0 or fault.times < 1 or not 0 <= fault.probability <= 1 or fault.delay_ms < 0:
            raise ValueError("after_events and delay_ms are 0 or more, times 1 or more, probability from 0 to 1")
        self._orders.append(fault)

    def clear(self) -> None:
        """Forget all orders, and let go of what is held by one."""
        self._orders.clear()
        self._forgotten.set()
        self._forgotten = asyncio.Event()

    async def hold(self, fault: Fault) -> None:
        """For as long as the fault lasts, or until all orders are forgotten."""
        self.holding += 1
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(fault.delay_ms / 1000 or None):
                    await self._forgotten.wait()
        finally:
            self.holding -= 1

    def take_for_stream(self) -> Fault | None:
        """The fault that befalls this stream, if any; ``after_events`` says where in it."""
        return self._take(lambda fault: True)

    def take_for_answer(self) -> Fault | None:
        """The fault that befalls this request, which is answered whole; ones for the middle of a stream spare it."""
        return self._take(lambda fault: fault.at_once)

    def take_for_request(self) -> Fault | None:
        """The fault that befalls this request of a service without streams: there, requests are its events."""
        for fault in self._orders:
            if fault.after_events:
                fault.after_events -= 1
                return None
        return self._take(lambda fault: True)

    def _take(self, concerns: Callable[[Fault], bool]) -> Fault | None:
        for fault in self._orders:
            if concerns(fault) and self._rng.random() < fault.probability:
                fault.times -= 1
                if fault.times == 0:
                    self._orders.remove(fault)
                return fault
        return None
