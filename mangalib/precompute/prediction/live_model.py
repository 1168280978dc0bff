"""The transition model that an orchestrator predicts with: reloaded when its file is replaced."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial

from mangalib.errors import DataError
from mangalib.precompute.prediction.transition_model import NextIntent, Relation, TransitionModel
from mangalib.resilience import refresh_periodically
from mangalib.settings import PredictionSettings

log = logging.getLogger(__name__)


class LiveModel:
    """The model of a file, reloaded when the file is replaced, and updated online in between."""

    def __init__(self, settings: PredictionSettings) -> None:
        self._settings = settings
        self._mtime_ns = 0
        self._model = TransitionModel(order=4, half_life_days=30.0)

    def predict(self, history: Sequence[str]) -> dict[NextIntent, float]:
        """As :meth:`TransitionModel.predict`."""
        return self._model.predict(history)

    def observe(self, history: Sequence[str], intent: str, relation: Relation, *, at_us: int) -> None:
        """As :meth:`TransitionModel.observe`; observations last until the file is replaced."""
        self._model.observe(history, intent, relation, at_us=at_us)

    def refresh(self) -> None:
        """Reload the file if it has changed; on an error, log it and keep the last good model."""
        try:
            path = self._settings.live_transition_model
            changed_ns = path.stat().st_mtime_ns
            if changed_ns > self._mtime_ns:
                self._model = TransitionModel.load(path)
                self._mtime_ns = changed_ns
        except (OSError, DataError) as error:
            log.warning("transition model not reloaded; keeping the last good one: %s", error)

    async def follow(self, every_s: float) -> None:
        """Refresh every ``every_s`` seconds until cancelled."""
        await refresh_periodically("reading the transition model", every_s, partial(asyncio.to_thread, self.refresh))
