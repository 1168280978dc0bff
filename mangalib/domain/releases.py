"""Releases: everything about the chat that can be changed without a new build, as versions that can be taken back.

A release says which model and prompt version each intent gets, how many deltas make a chunk, and which of the ten
optimisations are on. Releases are kept in DynamoDB and never changed; one item, number 0, says which is active and what was
before. Orchestrators follow it within ``release_refresh_s``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from mangalib.domain.intents import Intent, Route
from mangalib.errors import ReleaseError
from mangalib.settings import AnswerSettings, ModelSettings

log = logging.getLogger(__name__)

_POINTER = 0
_KEPT_ACTIVATIONS = 200


class Optimisations(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ten optimisations, on or off.

    ``follow_up_prediction`` makes for one session what it is likely to ask next; ``trending_answers`` makes, and keeps,
    answers about titles for everybody; ``semantic_cache`` keeps all other shared answers.
    """

    warm_pool: bool = True
    preloaded_prompts: bool = True
    model_warmup: bool = True
    parallel_fan_out: bool = True
    chunk_batching: bool = True
    follow_up_prediction: bool = True
    status_messages: bool = True
    model_routing: bool = True
    semantic_cache: bool = True
    trending_answers: bool = True


OPTIMISATIONS = Optimisations.__struct_fields__


class Release(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One release. ``models`` is intent to model id, ``prompt_versions`` intent to version; what they do not name, and a
    ``chunk_batch_size`` of ``None``, is as in the code and the settings."""

    number: int = 0
    note: str = ""
    created_at: str = ""
    models: dict[str, str] = {}
    prompt_versions: dict[str, int] = {}
    chunk_batch_size: int | None = None
    optimisations: Optimisations = Optimisations()

    def __post_init__(self) -> None:
        for name in (*self.models, *self.prompt_versions):
            if name not in set(Intent):
                raise ReleaseError(f"intent {name!r}; expected one of {', '.join(Intent)}")
        if self.chunk_batch_size is not None and self.chunk_batch_size < 1:
            raise ReleaseError(f"chunk_batch_size {self.chunk_batch_size}; expected 1 or more")

    def changed(
        self,
        note: str,
        models: dict[str, str],
        prompt_versions: dict[str, int],
        chunk_batch_size: int | None,
        *,
        off: Sequence[str] = (),
        on: Sequence[str] = (),
    ) -> Release:
        """This release with other models, prompts, batch size or optimisations; raises ``ReleaseError`` naming what is wrong."""
        for name in (*off, *on):
            if name not in OPTIMISATIONS:
                raise ReleaseError(f"optimisation {name!r}; expected one of {', '.join(OPTIMISATIONS)}")
        switched = dict.fromkeys(off, False) | dict.fromkeys(on, True)
        return Release(
            note=note,
            models={**self.models, **models},
            prompt_versions={**self.prompt_versions, **prompt_versions},
            chunk_batch_size=self.chunk_batch_size if chunk_batch_size is None else chunk_batch_size,
            optimisations=msgspec.structs.replace(self.optimisations, **switched),
        )

    def route(self, intent: Intent, usual: Route) -> Route:
        """An intent's way under this release: without model routing all take the careful one."""
        if self.optimisations.model_routing:
            return usual
        return msgspec.structs.replace(usual, large_model=True, retrieval=True)

    def model_id(self, intent: Intent, route: Route, settings: ModelSettings) -> str:
        """The model that answers an intent."""
        return self.models.get(intent) or route.model_id(settings)

    def batch_size(self, settings: AnswerSettings) -> int:
        """Deltas in a chunk."""
        if not self.optimisations.chunk_batching:
            return 1
        return self.chunk_batch_size or settings.chunk_batch_size


class Activation(msgspec.Struct, frozen=True):
    """That a release became active: when, and why."""

    release: int
    at: str
    why: str


class Pointer(msgspec.Struct, frozen=True):
    """Which release is active (0: none was made yet), all activations, the newest last, and releases that were taken back."""

    active: int = 0
    activations: list[Activation] = []
    bad: list[int] = []


class Documents(Protocol):
    """What a release store needs of a table that several machines change: ``aws.DocumentTable`` in the product."""

    def get(self, value: str | int) -> dict[str, Any] | None:
        """The item with that key."""

    def all(self) -> list[dict[str, Any]]:
        """Every item."""

    def put(self, item: dict[str, Any], *, instead_of: dict[str, Any] | None) -> bool:
        """Write ``item`` if what is stored is still ``instead_of``; whether it was written."""

    def attempts(self) -> Iterator[None]:
        """Attempts to read, change and ``put``, for as long as others change the same item."""


class ReleaseStore:
    """Releases in a table of documents, keyed by ``release``. All calls block.

    Raises ``ReleaseError`` for a release that does not exist or cannot be activated, and when the table cannot be reached.
    """

    def __init__(self, table: Documents) -> None:
        self._table = table

    def pointer(self) -> Pointer:
        """Which release is active."""
        return _pointer_in(self._table.get(_POINTER))

    def all(self) -> list[Release]:
        """All releases, the oldest first."""
        releases = [_decoded(item) for item in self._table.all() if int(item["release"]) != _POINTER]
        return sorted(releases, key=lambda release: release.number)

    def get(self, number: int) -> Release:
        """One release; number 0 is how things are without any."""
        if number == _POINTER:
            return Release()
        item = self._table.get(number)
        if item is None:
            known = ", ".join(str(release.number) for release in self.all()) or "none"
            raise ReleaseError(f"no release {number}; there are: {known}")
        return _decoded(item)

    def create(self, release: Release) -> Release:
        """Keep a new release, numbered next, and return it; it is not active yet."""
        for _ in self._table.attempts():
            number = max((known.number for known in self.all()), default=_POINTER) + 1
            numbered = msgspec.structs.replace(release, number=number, created_at=_now())
            item = {"release": number, "body": msgspec.json.encode(numbered).decode()}
            if self._table.put(item, instead_of=None):
                return numbered
        raise ReleaseError("others are making releases at the same time; try again")

    def activate(self, number: int, why: str) -> Release:
        """Make a release active; one that was taken back before counts as good again."""
        release = self.get(number)
        for _ in self._table.attempts():
            item = self._table.get(_POINTER)
            bad = [other for other in _pointer_in(item).bad if other != number]
            if self._point(item, number, why, bad):
                return release
        raise ReleaseError("others are changing the active release at the same time; try again")

    def rollback(self, why: str, *, bad: int | None = None) -> tuple[int, Release]:
        """Take the active release back: the last one before it that was not taken back is active again.

        ``bad`` is the release that is meant, by default whichever is active; if another is active by now, nothing is done.
        Returns the number that was taken back and the release that is active.
        """
        for _ in self._table.attempts():
            item = self._table.get(_POINTER)
            before = _pointer_in(item)
            meant = before.active if bad is None else bad
            if before.active != meant:
                return meant, self.get(before.active)
            spoilt = {*before.bad, meant}
            good = [past.release for past in before.activations if past.release not in spoilt]
            if not good:
                raise ReleaseError(f"release {meant} is the first: there is no good one before it to go back to")
            target = self.get(good[-1])
            if self._point(item, target.number, why, sorted(spoilt)):
                return meant, target
        raise ReleaseError("others are changing the active release at the same time; try again")

    def _point(self, item: dict[str, Any] | None, number: int, why: str, bad: list[int]) -> bool:
        before = _pointer_in(item)
        activations = [*before.activations, Activation(number, _now(), why)][-_KEPT_ACTIVATIONS:]
        after = Pointer(number, activations, bad)
        return self._table.put({"release": _POINTER, "body": msgspec.json.encode(after).decode()}, instead_of=item)


class ReleaseFollower:
    """The active release, looked at without any I/O; an answer keeps the one it began with."""

    def __init__(self, store: ReleaseStore) -> None:
        self._store = store
        self.current = Release()

    async def refresh(self) -> None:
        """Look which release is active; while that fails, the last known one stays in force, and the failure is logged."""
        try:
            number = await asyncio.to_thread(lambda: self._store.pointer().active)
            if number != self.current.number:
                self.current = await asyncio.to_thread(self._store.get, number)
                log.info("release %d is active: %s", number, self.current.note)
        except (ReleaseError, msgspec.MsgspecError) as error:
            log.warning("the active release could not be read, release %d stays: %s", self.current.number, error)

    async def follow(self, every_s: float) -> None:
        """Refresh in the background; runs until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            await self.refresh()


def _pointer_in(item: dict[str, Any] | None) -> Pointer:
    return Pointer() if item is None else msgspec.json.decode(str(item["body"]), type=Pointer)


def _decoded(item: dict[str, Any]) -> Release:
    return msgspec.json.decode(str(item["body"]), type=Release)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
