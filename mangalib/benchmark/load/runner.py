"""The runner: asks a workload over real WebSockets and notes what each client saw.

Open loop: a question is sent when it is due, whether or not earlier ones have been answered, and its wait is counted from that
moment; so a server that stalls is charged for the queue that builds up meanwhile (Schroeder, Wierman & Harchol-Balter, 2006).
Connections are made before they are needed and are not part of a wait. What fails or is late is a row like any other.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from mangalib.benchmark.load.workload import Conversation, Question, questions_of
from mangalib.client import Client, Reply
from mangalib.errors import MangaError
from mangalib.protocol import Error
from mangalib.settings import Settings

_START_IN_S = 0.5


@dataclass(frozen=True)
class QuestionResult:
    """What came of one question; latencies in ms since it was due."""

    question: Question
    first_token_ms: float | None
    total_ms: float | None
    model_id: str | None
    source: str | None
    tokens: int
    release: int
    error: str | None


class Runner:
    """One run. ``connect`` makes a client that is not entered yet; outcomes are there at any time, also of a run that was
    interrupted, and ``tell`` is told of each."""

    def __init__(
        self,
        connect: Callable[[], Client],
        workload: list[Conversation],
        settings: Settings,
        *,
        progress: bool = True,
        tell: Callable[[QuestionResult], object] = lambda outcome: None,
    ) -> None:
        self._connect = connect
        self._workload = workload
        self._settings = settings
        self._progress = progress
        self._tell = tell
        self._zero_s = 0.0
        self.started_at = datetime.now(UTC)
        self.run_id = f"{self.started_at:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"
        self.planned = sum(1 for _ in questions_of(workload))
        self.outcomes: list[QuestionResult] = []

    async def run(self, *, begin_in_s: float = _START_IN_S) -> None:
        """Ask everything, the first question ``begin_in_s`` from now and a moment to connect. Cancelled, it ends at once, and
        what was answered until then is kept."""
        self._zero_s = time.monotonic() + begin_in_s + self._settings.connect_ahead_s
        with tqdm(total=self.planned, desc="questions", disable=not self._progress, leave=False) as bar:
            async with asyncio.TaskGroup() as group:
                for conversation in self._workload:
                    group.create_task(self._converse(conversation, bar))

    def samples(self) -> pd.DataFrame:
        """What was measured, in the store's columns, in the order in which the questions were due."""
        rows = [self._row(outcome) for outcome in sorted(self.outcomes, key=lambda outcome: outcome.question.due_s)]
        return pd.DataFrame(rows)

    @property
    def releases(self) -> set[int]:
        """The releases that answered."""
        return {outcome.release for outcome in self.outcomes if outcome.error is None}

    async def _converse(self, conversation: Conversation, bar: Any) -> None:
        await self._until(conversation.questions[0].due_s - self._settings.connect_ahead_s)
        try:
            async with self._connect() as client, asyncio.TaskGroup() as group:
                for question in conversation.questions:
                    group.create_task(self._ask(client, question, bar))
        except* MangaError as refused:
            # Only making the connection raises: what an answer dies of is an outcome already.
            code = refused.exceptions[0].code if isinstance(refused.exceptions[0], MangaError) else "internal"
            for question in conversation.questions:
                self._note(QuestionResult(question, None, None, None, None, 0, 0, f"connect: {code}"), bar)

    async def _ask(self, client: Client, question: Question, bar: Any) -> None:
        await self._until(question.due_s)
        late_ms = (time.monotonic() - self._zero_s - question.due_s) * 1000
        try:
            async with asyncio.timeout(self._settings.benchmark_timeout_s):
                reply = await client.answer(question.text, intent=question.intent)
            outcome = _outcome(question, reply, late_ms)
        except TimeoutError:
            outcome = QuestionResult(question, None, None, None, None, 0, 0, "timeout")
        except MangaError as error:
            outcome = QuestionResult(question, None, None, None, None, 0, 0, error.code)
        self._note(outcome, bar)

    def _note(self, outcome: QuestionResult, bar: Any) -> None:
        self.outcomes.append(outcome)
        self._tell(outcome)
        bar.update()

    async def _until(self, due_s: float) -> None:
        await asyncio.sleep(max(0.0, self._zero_s + due_s - time.monotonic()))

    def _row(self, outcome: QuestionResult) -> dict[str, Any]:
        question = outcome.question
        return {
            "run_id": self.run_id,
            "started_at": self.started_at,
            # By the clock that only goes forward: the wall's may be set back during a run.
            "at": self.started_at + timedelta(seconds=question.due_s),
            "sequence": question.sequence,
            "intent": question.intent.value,
            "model_id": outcome.model_id,
            "source": outcome.source,
            "origin": question.origin,
            "first_token_ms": outcome.first_token_ms,
            "total_ms": outcome.total_ms,
            "tokens": outcome.tokens,
            "ok": outcome.error is None,
            "error": outcome.error,
            "warmup": question.sequence < self._settings.discarded_per_intent,
        }


def _outcome(question: Question, reply: Reply, late_ms: float) -> QuestionResult:
    if reply.metadata is None or reply.first_token_ms is None or reply.total_ms is None:
        code = reply.error.code if isinstance(reply.error, Error) else "empty"
        return QuestionResult(question, None, None, None, None, 0, 0, code)
    data = reply.metadata
    first_ms, total_ms = reply.first_token_ms + late_ms, reply.total_ms + late_ms
    return QuestionResult(question, first_ms, total_ms, data.model_id, data.source, data.tokens, data.release, None)
