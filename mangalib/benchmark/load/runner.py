"""The runner: asks a workload over real WebSockets and records what each client saw.

Open loop: a question is sent when it is due, whether or not earlier ones have been answered, and its latency counts from that
moment; so the queue that builds up while a server stalls is measured (Schroeder, Wierman & Harchol-Balter, 2006).
Connections are opened before they are needed and are not part of a latency. Failures and time-outs are samples like any other.
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
from mangalib.settings import WorkloadSettings

_START_IN_S = 0.5


@dataclass(frozen=True)
class QuestionResult:
    """The result of one question; latencies in ms since it was due."""

    question: Question
    first_token_ms: float | None
    total_ms: float | None
    model_id: str | None
    source: str | None
    tokens: int
    release: int
    error: str | None


class Runner:
    """One run. ``connect`` returns a client that is not entered yet. ``outcomes`` can be read at any time, also after the run
    was cancelled; ``on_result`` is called with each."""

    def __init__(
        self,
        connect: Callable[[], Client],
        workload: list[Conversation],
        settings: WorkloadSettings,
        *,
        progress: bool = True,
        on_result: Callable[[QuestionResult], object] = lambda outcome: None,
    ) -> None:
        self._connect = connect
        self._workload = workload
        self._settings = settings
        self._progress = progress
        self._on_result = on_result
        self._zero_s = 0.0
        self.started_at = datetime.now(UTC)
        self.run_id = f"{self.started_at:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"
        self.planned = sum(1 for _ in questions_of(workload))
        self.outcomes: list[QuestionResult] = []

    async def run(self, *, begin_in_s: float = _START_IN_S) -> None:
        """Ask all questions, the first one ``begin_in_s`` and the time to connect from now. Cancelled, it ends at once and
        keeps what has been answered."""
        self._zero_s = time.monotonic() + begin_in_s + self._settings.connect_ahead_s
        with tqdm(total=self.planned, desc="questions", disable=not self._progress, leave=False) as bar:
            async with asyncio.TaskGroup() as group:
                for conversation in self._workload:
                    group.create_task(self._converse(conversation, bar))

    def samples(self) -> pd.DataFrame:
        """The results in the store's columns, in the order in which the questions were due."""
        rows = [self._sample(outcome) for outcome in sorted(self.outcomes, key=lambda outcome: outcome.question.due_s)]
        return pd.DataFrame(rows)

    @property
    def releases(self) -> set[int]:
        """The releases that answered."""
        return {outcome.release for outcome in self.outcomes if outcome.error is None}

    async def _converse(self, conversation: Conversation, bar: Any) -> None:
        await self._sleep_until(conversation.questions[0].due_s - self._settings.connect_ahead_s)
        try:
            async with self._connect() as client, asyncio.TaskGroup() as group:
                for question in conversation.questions:
                    group.create_task(self._ask(client, question, bar))
        except* MangaError as refused:
            # Only connecting raises: an answer that fails is an outcome already.
            code = refused.exceptions[0].code if isinstance(refused.exceptions[0], MangaError) else "internal"
            for question in conversation.questions:
                self._record(QuestionResult(question, None, None, None, None, 0, 0, f"connect: {code}"), bar)

    async def _ask(self, client: Client, question: Question, bar: Any) -> None:
        await self._sleep_until(question.due_s)
        late_ms = (time.monotonic() - self._zero_s - question.due_s) * 1000
        try:
            async with asyncio.timeout(self._settings.benchmark_timeout_s):
                reply = await client.answer(question.text, intent=question.intent)
            outcome = _outcome(question, reply, late_ms)
        except TimeoutError:
            outcome = QuestionResult(question, None, None, None, None, 0, 0, "timeout")
        except MangaError as error:
            outcome = QuestionResult(question, None, None, None, None, 0, 0, error.code)
        self._record(outcome, bar)

    def _record(self, outcome: QuestionResult, bar: Any) -> None:
        self.outcomes.append(outcome)
        self._on_result(outcome)
        bar.update()

    async def _sleep_until(self, due_s: float) -> None:
        await asyncio.sleep(max(0.0, self._zero_s + due_s - time.monotonic()))

    def _sample(self, outcome: QuestionResult) -> dict[str, Any]:
        question = outcome.question
        return {
            "run_id": self.run_id,
            "started_at": self.started_at,
            # From the monotonic clock: the wall clock may be set back during a run.
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
