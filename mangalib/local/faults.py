"""Fault injection into a stand-in: ``POST /_local/faults`` injects a fault, ``DELETE /_local/faults`` clears all."""

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
    """An injected fault: its kind, the number of events before it, how many times it occurs at most, and how probably.

    ``before_event`` names the type of the stream's event that the fault precedes, instead of a number of events.
    ``delay_ms`` is how long a stall or a slow first token lasts; a stall of 0 ms lasts until the client gives up. Both end
    when the faults are cleared.
    """

    kind: str
    after_events: int = 0
    before_event: str = ""
    times: int = 1
    probability: float = 1.0
    delay_ms: float = 0.0

    def precedes(self, number: int, event_type: str) -> bool:
        """Whether the fault occurs before that event of a stream."""
        return event_type == self.before_event if self.before_event else number == self.after_events

    @property
    def before_response(self) -> bool:
        """Whether the fault occurs before the first byte of a response."""
        return self.after_events == 0 and not self.before_event


class FaultInjector:
    """The faults injected into one stand-in. Each request asks once which fault, if any, applies to it."""

    def __init__(self, kinds: tuple[str, ...], rng: random.Random) -> None:
        self._kinds = kinds
        self._rng = rng
        self._faults: list[Fault] = []
        self._cleared = asyncio.Event()
        self.holding = 0

    def change(self, method: str, body: bytes) -> dict[str, bool]:
        """The admin interface: ``POST`` injects the fault in ``body``, ``DELETE`` removes all; returns the response's fields."""
        if method == "POST":
            self.inject(body)
        else:
            self.clear()
        return {"ordered": method == "POST"}

    def inject(self, body: bytes) -> None:
        """Add a fault given as JSON; raises ``ValueError`` naming an invalid field."""
        try:
            fault = msgspec.json.decode(body, type=Fault)
        except msgspec.DecodeError as error:
            raise ValueError(str(error)) from None
        if fault.kind not in self._kinds:
            raise ValueError(f"kind: {fault.kind!r}; expected one of {', '.join(self._kinds)}")
        if fault.after_events < 0 or fault.times < 1 or not 0 <= fault.probability <= 1 or fault.delay_ms < 0:
            raise ValueError(
                f"{fault}; expected after_events and delay_ms 0 or more, times 1 or more, probability 0 to 1"
            )
        self._faults.append(fault)

    def clear(self) -> None:
        """Remove all faults and release the requests that they hold."""
        self._faults.clear()
        self._cleared.set()
        self._cleared = asyncio.Event()

    async def hold(self, fault: Fault) -> None:
        """Wait for ``delay_ms``, or until the faults are cleared."""
        self.holding += 1
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(fault.delay_ms / 1000 or None):
                    await self._cleared.wait()
        finally:
            self.holding -= 1

    def next_for_stream(self) -> Fault | None:
        """The fault for this stream, if any; ``after_events`` is its position in it."""
        return self._next(lambda fault: True)

    def next_for_invocation(self) -> Fault | None:
        """The fault for this request with an unstreamed response, if any; faults within a stream do not apply to it."""
        return self._next(lambda fault: fault.before_response)

    def next_for_request(self) -> Fault | None:
        """The fault for this request of a service without streams, where ``after_events`` counts requests."""
        for fault in self._faults:
            if fault.after_events:
                fault.after_events -= 1
                return None
        return self._next(lambda fault: True)

    def _next(self, applies: Callable[[Fault], bool]) -> Fault | None:
        for fault in self._faults:
            if applies(fault) and self._rng.random() < fault.probability:
                fault.times -= 1
                if fault.times == 0:
                    self._faults.remove(fault)
                return fault
        return None
