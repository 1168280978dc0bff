"""The query log: a sample of production questions for the benchmark, with personal data redacted before they are stored.

JSON lines with ``at`` (UTC), ``intent`` and ``text``; only the file's owner may read them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
from datetime import UTC, datetime
from pathlib import Path

from mangalib.domain import Intent
from mangalib.nlu import without_personal_data
from mangalib.settings import QueryLogSettings

log = logging.getLogger(__name__)

_BUFFERED_MAX = 1000


class QueryLog:
    """Samples the questions it is offered; :meth:`write` runs as a task of its own, so that no answer waits for a disk."""

    def __init__(self, path: Path, share: float, rng: random.Random) -> None:
        self._path = path
        self._share = share
        self._rng = rng
        self._buffer: asyncio.Queue[str] = asyncio.Queue(_BUFFERED_MAX)

    @classmethod
    def from_settings(cls, settings: QueryLogSettings) -> QueryLog | None:
        """The query log of the settings, or ``None`` if it is off."""
        if settings.query_log is None:
            return None
        return cls(settings.query_log, settings.query_log_share, random.Random())

    def offer(self, intent: Intent, text: str, name: str) -> None:
        """Log this question with the configured probability; never waits. When the buffer is full, the question is dropped."""
        if self._rng.random() >= self._share or self._buffer.full():
            return
        at = datetime.now(UTC).isoformat(timespec="seconds")
        line = {"at": at, "intent": intent.value, "text": without_personal_data(text, name)}
        self._buffer.put_nowait(json.dumps(line, ensure_ascii=False) + "\n")

    async def write(self) -> None:
        """Write buffered questions until cancelled. A write that fails is logged, and its questions are lost."""
        while True:
            lines = [await self._buffer.get()]
            while not self._buffer.empty():
                lines.append(self._buffer.get_nowait())
            try:
                await asyncio.to_thread(self._append, "".join(lines))
            except (OSError, ValueError) as error:
                log.warning("%d questions not logged: %s", len(lines), error)

    def _append(self, text: str) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8") as file:
            file.write(text)
