"""A sample of what customers really ask, for the benchmark to ask again, with what is personal taken out first.

JSON lines: ``at`` (UTC), ``intent``, ``text``. The file's owner alone may read it.
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
from mangalib.settings import Settings

log = logging.getLogger(__name__)

_WAITING = 1000


class QueryLog:
    """Offered every question, keeps a share of them; a task of its owner's writes them, so that no answer waits for a disk."""

    def __init__(self, path: Path, share: float, rng: random.Random) -> None:
        self._path = path
        self._share = share
        self._rng = rng
        self._waiting: asyncio.Queue[str] = asyncio.Queue(_WAITING)

    @classmethod
    def from_settings(cls, settings: Settings) -> QueryLog | None:
        """The log that the settings ask for, if they do."""
        if settings.query_log is None:
            return None
        return cls(settings.query_log, settings.query_log_share, random.Random())

    def offer(self, intent: Intent, text: str, name: str) -> None:
        """Keep it or not; never waits. What comes faster than it can be written is left out."""
        if self._rng.random() >= self._share or self._waiting.full():
            return
        at = datetime.now(UTC).isoformat(timespec="seconds")
        line = {"at": at, "intent": intent.value, "text": without_personal_data(text, name)}
        self._waiting.put_nowait(json.dumps(line, ensure_ascii=False) + "\n")

    async def write(self) -> None:
        """Write what is waiting; runs until cancelled. A disk that fails is logged, and costs lines only."""
        while True:
            lines = [await self._waiting.get()]
            while not self._waiting.empty():
                lines.append(self._waiting.get_nowait())
            try:
                await asyncio.to_thread(self._append, "".join(lines))
            except OSError as error:
                log.warning("%d questions were not logged: %s", len(lines), error)

    def _append(self, text: str) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8") as file:
            file.write(text)
