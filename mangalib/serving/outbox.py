"""One answer's frames on their way to the client and into the replay buffer.

The list of frames is what ties the tasks of an answer together: delivering is a cursor that moves along it, so that a client
that comes back is served by setting the cursor to where it was; keeping is a second one behind it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar

import msgspec
from redis.exceptions import RedisError

from mangalib.errors import ConnectionGoneError, MangaError
from mangalib.protocol import Card, Chunk, Done, Error, Status, encode, is_of
from mangalib.serving.replay_store import AnswerRecord
from mangalib.serving.services import Services

log = logging.getLogger(__name__)

_F = TypeVar("_F", Status, Card)


class Outbox:
    """Frames in the order of their ``seq``; ``cursor`` is the next one to be sent, one post in flight.

    A frame leaves when it is kept, so that whoever takes an answer over knows all that its client has; but nothing waits up to
    the first text, and nothing while Redis fails.

    It ends when it is ``finished`` and all is sent, or at once when it is ``stopped``: then nobody listens any more.
    """

    def __init__(
        self, services: Services, *, request_id: str, connection_id: str, frames: list[bytes], cursor: int
    ) -> None:
        self.frames = frames
        self.connection_id = connection_id
        self.finished = False
        self.stopped = False
        self._services = services
        self._request_id = request_id
        self._cursor = cursor
        self._saved = len(frames)
        self._keeping = True
        self._first_text: int | None = next((seq for seq, frame in enumerate(frames) if is_of(frame, Chunk)), None)
        self._something_new = asyncio.Event()
        self._something_to_save = asyncio.Event()

    @property
    def next_seq(self) -> int:
        """The number of the frame that is added next."""
        return len(self.frames)

    @property
    def all_sent(self) -> bool:
        """Whether the client has every frame that there is."""
        return self._cursor == len(self.frames)

    @property
    def _may_send(self) -> bool:
        urgent = self._first_text is None or self._cursor <= self._first_text
        return urgent or self._cursor < self._saved or not self._keeping

    def of(self, kind: type[_F]) -> list[_F]:
        """The frames of that type, decoded."""
        return [msgspec.json.decode(frame, type=kind) for frame in self.frames if is_of(frame, kind)]

    def add(self, frame: Status | Chunk | Card | Done | Error) -> None:
        """One more frame, to be kept and sent."""
        if self._first_text is None and isinstance(frame, Chunk):
            self._first_text = self.next_seq
        self.frames.append(encode(frame))
        self._something_new.set()
        self._something_to_save.set()

    def wake(self) -> None:
        """There may be text to make a frame of."""
        self._something_new.set()

    def finish(self) -> None:
        """No frame follows."""
        self.finished = True
        self._something_new.set()
        self._something_to_save.set()

    def stop(self) -> None:
        """Send nothing more."""
        self.stopped = True
        self._something_new.set()

    def redirect_to(self, connection_id: str, after: int) -> None:
        """Go on towards another connection, from behind frame ``after``."""
        self.connection_id = connection_id
        self._cursor = min(after + 1, len(self.frames))

    async def deliver(self, gather: Callable[[], None], sent: Callable[[bytes], None], *, deadline_s: float) -> bool:
        """Send until the end; false when the client is gone. ``gather`` may add a frame before each is chosen."""
        while not self.stopped:
            gather()
            if self.all_sent or not self._may_send:
                if self.all_sent and self.finished:
                    return True
                self._something_new.clear()
                await self._something_new.wait()
                continue
            frame = self.frames[self._cursor]
            try:
                await self._services.management.post(self.connection_id, frame, deadline_s=deadline_s)
            except ConnectionGoneError:
                return False
            except MangaError as error:
                log.warning("frames not delivered: %s", error, extra={"request_id": self._request_id})
                return False
            self._cursor += 1
            sent(frame)
        return True

    async def keep(self, customer: str, head: Callable[[], AnswerRecord]) -> None:
        """Write what is new, with the answer's record, until the last frame is written; a failure is logged."""
        settings, replay = self._services.settings, self._services.replay
        written: AnswerRecord | None = None
        while True:
            await self._something_to_save.wait()
            self._something_to_save.clear()
            last, until = self.finished, len(self.frames)
            try:
                async with asyncio.timeout(settings.replay_timeout_ms / 1000):
                    frames, now = self.frames[self._saved : until], head()
                    record = now if now != written else None
                    await replay.save(customer, self._request_id, record, frames, self._saved)
                self._saved, self._keeping, written = until, True, now
            except (RedisError, OSError, TimeoutError) as error:
                extra = {"request_id": self._request_id}
                log.warning("the replay buffer was not written: %s: %s", type(error).__name__, error, extra=extra)
                self._keeping = False
            self._something_new.set()
            if last:
                return
