"""The latency model: how long stand-ins wait before they respond. Assumptions, not measurements."""

from __future__ import annotations

import math
import random
import time

import msgspec

from mangalib.settings import LocalSettings


class LatencyProfile(msgspec.Struct, forbid_unknown_fields=True):
    """Medians in ms of log-normal waits; 0 disables a wait.

    ``cold_min_ms`` to ``cold_max_ms`` (uniform) is added to a model's first call after ``cold_after_s`` without one;
    ``daily_cycle`` is the relative amplitude of a daily cycle that peaks at 21:00 in Japan.
    """

    haiku_first_token_ms: float
    sonnet_first_token_ms: float
    first_token_sigma: float
    inter_token_ms: float
    inter_token_sigma: float
    embedding_ms: float
    knn_ms: float
    knn_sigma: float
    cold_min_ms: float
    cold_max_ms: float
    cold_after_s: float
    daily_cycle: float

    @classmethod
    def from_settings(cls, settings: LocalSettings) -> LatencyProfile:
        """The profile given by the ``local_…`` settings."""
        return cls(**{name: getattr(settings, f"local_{name}") for name in cls.__struct_fields__})

    def changed(self, body: bytes) -> LatencyProfile:
        """This profile with the fields of a JSON object replaced; raises ``ValueError`` naming an invalid field."""
        try:
            changes = msgspec.json.decode(body, type=dict[str, float])
            profile = msgspec.convert({**msgspec.structs.asdict(self), **changes}, LatencyProfile)
        except msgspec.DecodeError as error:
            raise ValueError(str(error)) from None
        negative = [name for name, value in msgspec.structs.asdict(profile).items() if value < 0]
        if negative:
            raise ValueError(f"{', '.join(negative)}: expected 0 or more")
        return profile


class LatencyModel:
    """Draws waits in seconds from a profile."""

    def __init__(self, profile: LatencyProfile, rng: random.Random) -> None:
        self.profile = profile
        self._rng = rng
        self._last_call_s: dict[str, float] = {}

    def first_token_s(self, model_id: str) -> float:
        """Time to a model's first event, cold start included; counts as a call that keeps the model warm."""
        profile = self.profile
        median_ms = profile.haiku_first_token_ms if "haiku" in model_id else profile.sonnet_first_token_ms
        wait_s = self._draw_s(median_ms, profile.first_token_sigma)
        now_s = time.monotonic()
        if now_s - self._last_call_s.get(model_id, -math.inf) > profile.cold_after_s:
            wait_s += self._rng.uniform(profile.cold_min_ms, profile.cold_max_ms) / 1000
        self._last_call_s[model_id] = now_s
        return wait_s

    def inter_token_s(self, tokens: int) -> float:
        """Time to the next event, which holds ``tokens`` tokens."""
        return tokens * self._draw_s(self.profile.inter_token_ms, self.profile.inter_token_sigma)

    def embedding_s(self) -> float:
        """Time of one embedding."""
        return self._draw_s(self.profile.embedding_ms, self.profile.first_token_sigma)

    def knn_s(self) -> float:
        """Time of one k-NN search."""
        return self._draw_s(self.profile.knn_ms, self.profile.knn_sigma)

    def _draw_s(self, median_ms: float, sigma: float) -> float:
        hour_in_japan = (time.time() / 3600 + 9) % 24
        cycle = 1 + self.profile.daily_cycle * math.cos((hour_in_japan - 21) / 24 * 2 * math.pi)
        return median_ms / 1000 * self._rng.lognormvariate(0, sigma) * cycle
