"""The answers that one orchestrator is generating or sending: admitted, resumed, redirected, drained."""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from mangalib.domain import named_intent
from mangalib.errors import (
    BadRequestError,
    BusyError,
    GoingAwayError,
    InterruptedAnswerError,
    NotFoundError,
)
from mangalib.protocol import Query, Resume, SessionState
from mangalib.serving.answer import Answer
from mangalib.serving.answer_protocol import BUSY, AnswerProtocol
from mangalib.serving.answer_record import StoredAnswer
from mangalib.serving.connections import ClientConnection
from mangalib.serving.services import Services
from mangalib.settings import OrchestratorSettings

log = logging.getLogger(__name__)

RESUME_TIMEOUT_S = 5.0

Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


@dataclass
class RunningAnswer:
    """An answer, its task, and the connection that it is sent to."""

    answer: Answer
    task: asyncio.Task[None]
    client: ClientConnection


class RunningAnswers:
    """By customer and request id. ``spawn`` starts a task that its owner awaits."""

    def __init__(self, services: Services, settings: OrchestratorSettings, spawn: Spawn) -> None:
        self._services = services
        self._settings = settings
        self._spawn = spawn
        self._running: dict[tuple[str, str], RunningAnswer] = {}
        self._draining = False

    async def drain(self) -> None:
        """Accept nothing new from now on, and wait for the answers that run, ``drain_timeout_s`` at most."""
        self._draining = True
        tasks = [running.task for running in self._running.values()]
        log.info("draining: %d answers are running", len(tasks))
        if tasks:
            await asyncio.wait(tasks, timeout=self._settings.drain_timeout_s)

    def stop(self) -> None:
        """Stop all answers; what there is of them is kept."""
        for running in self._running.values():
            running.answer.client_left()

    def start(self, client: ClientConnection, query: Query) -> None:
        """Answer a question.

        Raises ``BadRequestError``, ``BusyError`` when there are too many answers, ``GoingAwayError`` while draining.
        """
        if not query.text.strip():
            raise BadRequestError("text: empty; expected a question")
        if len(query.text) > self._settings.max_query_chars:
            raise BadRequestError(
                f"text: {len(query.text)} characters; expected at most {self._settings.max_query_chars}"
            )
        if query.intent is not None:
            named_intent(query.intent)
        self._admit()
        if len(client.answers) >= self._settings.max_running_answers:
            raise BusyError(f"{len(client.answers)} answers are running on this connection; wait for one to end")
        request_id = query.request_id or uuid.uuid4().hex
        if (client.customer, request_id) in self._running:
            raise BadRequestError(f"request_id: {request_id!r} is running already; expected a new one")
        self._run(client, self._protocol(query, request_id, client.session_id))

    async def resume(self, client: ClientConnection, resume: Resume) -> bool:
        """Send the rest of an answer to ``client``; true when the answer was restored from the replay store.

        Raises ``NotFoundError`` or ``InterruptedAnswerError`` when it is not stored, ``BusyError`` when it is still ending, and
        ``GoingAwayError`` while draining. A client that has disconnected meanwhile gets nothing.
        """
        key = (client.customer, resume.request_id)
        running = self._running.get(key)
        if running is not None:
            if running.answer.redirect_to(client.connection_id, resume.after):
                self._detach(running)
                self._attach(client, running)
                return False
            await asyncio.wait([running.task], timeout=RESUME_TIMEOUT_S)
        self._refuse_if_draining()
        stored = None
        with self._services.breakers.redis_optional("an answer could not be looked up"):
            stored = await self._services.replay.load(*key)
        if stored is None and resume.after < 0:
            raise NotFoundError(f"request_id: no answer {resume.request_id!r} is stored; ask again")
        if stored is None or stored.lacks(resume.after):
            raise InterruptedAnswerError("The answer was interrupted. Keep the text so far, and please ask again.")
        if (running_now := self._running.get(key)) is not None:
            if running_now is running:
                raise BusyError(BUSY, retry_after_ms=round(self._settings.busy_retry_ms))
            # The client sent its resume twice, and the first of the two has taken the answer up meanwhile.
            return await self.resume(client, resume)
        record = stored.record
        client.session_id = record.session_id
        # Nothing is awaited between looking whether the answer runs and running it: a second resume must find it.
        if not client.closed:
            self._run(client, self._protocol(record.query, resume.request_id, record.session_id, stored, resume.after))
        return True

    def _admit(self) -> None:
        """Refuse what cannot be answered fast, before any work is done for it, so that admitted answers stay fast."""
        self._refuse_if_draining()
        if len(self._running) >= self._settings.capacity_answers:
            # Jitter, so that those who were refused together do not come back together.
            raise BusyError(BUSY, retry_after_ms=round(self._settings.busy_retry_ms * random.uniform(0.5, 1.5)))

    def _refuse_if_draining(self) -> None:
        if self._draining:
            raise GoingAwayError("This server is being replaced; connect again.", retry_after_ms=0)

    def _protocol(
        self, query: Query, request_id: str, session_id: str, stored: StoredAnswer | None = None, after: int = -1
    ) -> AnswerProtocol:
        return AnswerProtocol(
            query,
            request_id=request_id,
            session_id=session_id,
            release=self._services.releases.current,
            catalogue=self._services.catalogue,
            settings=self._services.settings,
            stored=stored,
            after=after,
        )

    def _run(self, client: ClientConnection, protocol: AnswerProtocol) -> None:
        answer = Answer(self._services, protocol, customer=client.customer, connection_id=client.connection_id)
        key = (client.customer, answer.request_id)
        running = RunningAnswer(answer, self._spawn(self._run_to_end(key, answer)), client)
        self._running[key] = running
        self._attach(client, running)

    async def _run_to_end(self, key: tuple[str, str], answer: Answer) -> None:
        try:
            await answer.run()
        finally:
            self._detach(self._running.pop(key))

    def _attach(self, client: ClientConnection, running: RunningAnswer) -> None:
        """The answer is sent to that connection from now on."""
        running.client = client
        client.answers[running.answer.request_id] = running.answer
        client.session.query_started(time.monotonic())

    def _detach(self, running: RunningAnswer) -> None:
        """The answer has ended, or is redirected."""
        del running.client.answers[running.answer.request_id]
        if running.client.session.state is not SessionState.DISCONNECTED:
            running.client.session.query_ended(time.monotonic())
