"""The asyncio shell on the way out: an answer's frames to the client and into the replay store."""

from __future__ import annotations

import asyncio
import logging
import time

from redis.exceptions import RedisError

from mangalib.errors import ConnectionGoneError, MangaError
from mangalib.serving.answer_protocol import AnswerProtocol
from mangalib.serving.services import Services

log = logging.getLogger(__name__)


class Outbox:
    """Posts the frames that may be sent, one post in flight, and writes those to be stored to the replay store."""

    def __init__(self, services: Services, protocol: AnswerProtocol, *, customer: str, connection_id: str) -> None:
        self.connection_id = connection_id
        self.started_s = time.monotonic()
        self._services = services
        self._protocol = protocol
        self._customer = customer
        self._deadline_s = self.started_s + services.settings.stream_timeout_s + services.settings.send_timeout_s
        self._to_send = asyncio.Event()
        self._to_keep = asyncio.Event()

    def now_ms(self) -> float:
        """Milliseconds since the question came."""
        return self.at_ms(time.monotonic())

    def at_ms(self, moment_s: float) -> float:
        """A moment of the monotonic clock, in milliseconds since the question came."""
        return round((moment_s - self.started_s) * 1000, 2)

    def wake(self) -> None:
        """The answer has changed: there may be new frames."""
        self._to_send.set()
        self._wake_keeper()

    def _wake_keeper(self) -> None:
        # Not with each event of the model: most of them make no frame.
        if self._protocol.something_to_keep:
            self._to_keep.set()

    async def deliver(self) -> bool:
        """Send until the last frame is sent; false when the client is gone before that."""
        protocol = self._protocol
        while not protocol.stopped:
            self._to_send.clear()
            frames = protocol.frames_to_send()
            self._wake_keeper()
            if not frames:
                if protocol.finished and protocol.all_sent:
                    return True
                await self._to_send.wait()
                continue
            for seq, frame in enumerate(frames, protocol.next_to_send):
                if not await self._post(frame):
                    return False
                protocol.sent(seq, self.now_ms())
        return True

    async def _post(self, frame: bytes) -> bool:
        try:
            await self._services.management.post(self.connection_id, frame, deadline_s=self._deadline_s)
        except ConnectionGoneError:
            return False
        except MangaError as error:
            log.warning("frames not delivered: %s", error, extra={"request_id": self._protocol.request_id})
            return False
        return True

    async def keep(self) -> None:
        """Write what is new until the last frame is written; a failure is logged."""
        protocol = self._protocol
        while True:
            await self._to_keep.wait()
            self._to_keep.clear()
            new = protocol.frames_to_keep()
            if new is None:
                continue
            try:
                async with asyncio.timeout(self._services.settings.replay_timeout_ms / 1000):
                    await self._services.replay.save(
                        self._customer, protocol.request_id, new.record, new.frames, new.first_seq
                    )
                protocol.kept(new)
            except (RedisError, OSError, TimeoutError) as error:
                extra = {"request_id": protocol.request_id}
                log.warning("replay store: not written: %s: %s", type(error).__name__, error, extra=extra)
                protocol.not_kept()
            self._to_send.set()
            if new.last:
                return
