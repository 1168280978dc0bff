"""A new transition model goes live only if it is no worse than the live one on sessions that neither was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mangalib.precompute.prediction.hit_rates import HitRate, score, split_by_time
from mangalib.precompute.prediction.session_log import Events, SessionLog
from mangalib.precompute.prediction.training import train
from mangalib.precompute.prediction.transition_model import TransitionModel
from mangalib.settings import PredictionSettings

# Nats a transition by which a candidate may be worse: less than two samples of one log differ by.
_LOG_LOSS_TOLERANCE = 0.01


@dataclass(frozen=True)
class Comparison:
    """The scores of the candidate and of the live model; ``adopted`` says whether the file was replaced.

    ``candidate`` is ``None`` when the log holds nothing newer than the live model's training data.
    """

    version: int
    adopted: bool
    candidate: HitRate | None
    live: HitRate | None

    @property
    def summary(self) -> str:
        """One readable sentence."""
        if self.candidate is None:
            return "nothing was adopted: the log has nothing newer than the live model"
        new = f"log loss {self.candidate.log_loss:.3f}, top 1 {self.candidate.top1:.1%}"
        if self.live is None:
            return f"version {self.version} is live: {new}; there was no model before"
        old = f"log loss {self.live.log_loss:.3f}, top 1 {self.live.top1:.1%}"
        if self.adopted:
            return f"version {self.version} is live: {new}; before: {old}"
        return f"version {self.version} was not adopted: {new}; the live one has {old}"


def train_and_compare(log: SessionLog, path: Path, settings: PredictionSettings) -> Comparison:
    """Train on the earlier sessions and compare on the newest; if no worse, train on all of them and replace the file."""
    events = log.read_all()
    live_file = settings.live_transition_model if path == settings.transition_model else path
    live = TransitionModel.load(live_file) if live_file.exists() else None
    version = live.version + 1 if live is not None else 1
    earlier, newest = split_by_time(events)
    if live is not None:
        newest = _started_after(newest, live.as_of_us)
    if not len(newest) or not len(earlier):
        return Comparison(version, False, None, None)
    order, half_life_days = settings.transition_order, settings.transition_half_life_days
    candidate = train([earlier], log.intents, order=order, half_life_days=half_life_days)
    new = score(candidate, newest, log.intents)
    old = score(live, newest, log.intents) if live is not None else None
    adopted = old is None or new.log_loss <= old.log_loss + _LOG_LOSS_TOLERANCE
    if adopted:
        final = train([events], log.intents, order=order, half_life_days=half_life_days)
        final.version = version
        final.save(path)
    return Comparison(version, adopted, new, old)


def _started_after(events: Events, at_us: int) -> Events:
    """The sessions that started after ``at_us``."""
    first = np.flatnonzero(np.concatenate([[True], events.session[1:] != events.session[:-1]]))
    later = events.at_us[first] > at_us
    return events.where(np.repeat(later, np.diff(np.append(first, len(events)))))
