"""The asyncio shell around one answer: it holds the tasks and time-outs, and feeds the protocol with what happens.

Three tasks an answer: one generates it, one sends its frames, one keeps them in Redis. When the client is gone the model's
stream is closed at once; when it comes back, the answer is continued from the text it had.
"""

from __future__ import annotations

import asyncio
import logging

from botocore.exceptions import BotoCoreError, ClientError

from mangalib.aws import Turn
from mangalib.errors import MangaError
from mangalib.serving.answer_protocol import AnswerProtocol
from mangalib.serving.outbox import Outbox
from mangalib.serving.precomputed import CompletedAnswer
from mangalib.serving.services import Services
from mangalib.serving.telemetry import publish_answer
from mangalib.serving.text_source import TextSource

log = logging.getLogger(__name__)


class Answer:
    """:meth:`run` does everything, and never raises for what goes wrong with the answer."""

    def __init__(self, services: Services, protocol: AnswerProtocol, *, customer: str, connection_id: str) -> None:
        self.request_id = protocol.request_id
        self._services = services
        self._settings = services.settings
        self._protocol = protocol
        self._customer = customer
        self._outbox = Outbox(services, protocol, customer=customer, connection_id=connection_id)
        self._source = TextSource(services, protocol, self._outbox, customer)
        self._generating = False
        self._tasks: asyncio.TaskGroup | None = None
        self._generator: asyncio.Task[None] | None = None
        self._sender: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Generate, send and keep the answer, until its last frame is out or the client is gone."""
        generated = not self._protocol.finished
        async with asyncio.TaskGroup() as self._tasks:
            self._sender = self._tasks.create_task(self._send())
            if generated:
                self._tasks.create_task(self._outbox.keep())
                self._generator = self._tasks.create_task(self._generate())
        if generated:
            publish_answer(
                self._settings.metrics_namespace,
                model_id=self._protocol.model_id,
                intent=self._protocol.intent or "unknown",
                state=self._protocol.state,
                metrics=self._protocol.metrics,
                request_id=self.request_id,
            )

    def redirect_to(self, connection_id: str, after: int) -> bool:
        """Send the frames after ``after`` to another connection; false when this answer is ending already."""
        if self._protocol.stopped or self._protocol.finished:
            return False
        self._outbox.connection_id = connection_id
        self._protocol.resumed(after)
        if self._tasks is not None and self._sender is not None:  # else it begins with the new connection
            self._sender.cancel()
            self._sender = self._tasks.create_task(self._send())
        return True

    def client_left(self, connection_id: str | None = None) -> None:
        """The client is gone (from that connection, if given): stop the model, keep what there is."""
        if connection_id not in {None, self._outbox.connection_id} or self._protocol.stopped:
            return
        self._protocol.client_left()
        self._outbox.wake()
        # The post in flight reaches no client; one that comes back must not wait for it.
        if self._sender is not None and self._sender is not asyncio.current_task():
            self._sender.cancel()
        # A task that has not started checks the flag; cancelled before its first step, it could not clean up.
        if self._generating and self._generator is not None:
            self._generator.cancel()

    async def _send(self) -> None:
        if not await self._outbox.deliver():
            self.client_left()

    async def _generate(self) -> None:
        """From the question to the last frame, whatever goes wrong."""
        protocol, now_ms = self._protocol, self._outbox.now_ms
        self._generating = True
        try:
            if protocol.stopped:
                raise asyncio.CancelledError
            async with asyncio.timeout(self._settings.stream_timeout_s):
                await self._source.run()
            await self._complete()
        except asyncio.CancelledError:
            protocol.cancelled(now_ms())
            if not protocol.stopped:
                raise
        except TimeoutError:
            self._fail("timeout", f"not complete within {self._settings.stream_timeout_s:g} s")
        except MangaError as error:
            self._fail(error.code, str(error), error.retry_after_ms)
        except Exception as error:  # the client must get its error frame whatever happened; the log gets the rest
            log.exception("an answer failed", extra={"request_id": self.request_id})
            self._fail("internal", type(error).__name__)
        finally:
            self._generating = False
            self._outbox.wake()

    def _fail(self, code: str, reason: str, retry_after_ms: int | None = None) -> None:
        log.warning("answer ended with %s: %s", code, reason, extra={"request_id": self.request_id})
        self._protocol.failed(code, reason, self._outbox.now_ms(), retry_after_ms)

    async def _complete(self) -> None:
        protocol, services = self._protocol, self._services
        wanted = protocol.completed(self._outbox.now_ms())
        self._outbox.wake()
        known = self._source.titles
        missing = [manga_id for manga_id in wanted if manga_id not in known]
        try:
            async with asyncio.timeout(self._settings.cache_budget_ms / 1000):
                known = {**known, **(await services.precomputed.titles(missing) if missing else {})}
        except TimeoutError:
            log.warning("prices are those of the catalogue", extra={"request_id": self.request_id})
        protocol.priced(known, self._outbox.now_ms())
        if protocol.knows_customer and self._tasks is not None:
            self._tasks.create_task(self._remember())
        if self._source.context is not None:
            cost = protocol.metrics.tokens + protocol.metrics.input_tokens
            total_ms = protocol.metrics.total_ms or 0.0
            services.precomputed.on_completed(
                self._source.context,
                CompletedAnswer(
                    protocol.text, protocol.source, protocol.model_id, cost, total_ms, protocol.had_history
                ),
            )

    async def _remember(self) -> None:
        protocol, customers = self._protocol, self._services.customers
        try:
            async with asyncio.timeout(2 * self._settings.profile_deadline_ms / 1000):
                before = (
                    protocol.plan.request.messages[:-1]
                    if protocol.plan is not None
                    else await customers.history(self._customer, protocol.session_id)
                )
                turns = [*before, Turn("user", protocol.query.text), Turn("assistant", protocol.text)]
                await customers.remember(self._customer, protocol.session_id, turns)
        except (ClientError, BotoCoreError, OSError, TimeoutError) as error:
            extra = {"request_id": self.request_id}
            log.warning("the conversation was not kept: %s: %s", type(error).__name__, error, extra=extra)
