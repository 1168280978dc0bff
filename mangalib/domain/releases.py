"""Releases: versions of everything about the chat that can be changed without a new build, and rolled back.

A release says which model and prompt version each intent uses, how many deltas make a chunk, and which of the ten
optimisations are on. Releases are stored in DynamoDB and never changed; item number 0, the pointer, names the active one and
those that were active before. Orchestrators read it every ``release_refresh_s``.
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

    ``follow_up_prediction`` generates the answers that one session is likely to ask for next; ``trending_answers`` generates
    and caches shared answers about titles; ``semantic_cache`` caches all other shared answers.
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
    """One release. ``models`` maps intents to model ids, ``prompt_versions`` intents to versions.

    Intents that are not named, and a ``chunk_batch_size`` of ``None``, use the defaults of code and settings.
    """

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
        """A copy of this release with the given changes, not stored yet; raises ``ReleaseError`` naming the invalid value."""
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
        """The route of an intent under this release: without model routing, every intent uses the large model and retrieval."""
        if self.optimisations.model_routing:
            return usual
        return msgspec.structs.replace(usual, large_model=True, retrieval=True)

    def model_id(self, intent: Intent, route: Route, settings: ModelSettings) -> str:
        """The model that answers an intent."""
        return self.models.get(intent) or route.model_id(settings)

    def batch_size(self, settings: AnswerSettings) -> int:
        """The number of deltas in a chunk."""
        if not self.optimisations.chunk_batching:
            return 1
        return self.chunk_batch_size or settings.chunk_batch_size


class Activation(msgspec.Struct, frozen=True):
    """One activation of a release: when (UTC, ISO 8601) and why."""

    release: int
    at: str
    why: str


class Pointer(msgspec.Struct, frozen=True):
    """The active release (0: none yet), the activations, newest last, and the releases that were rolled back (``bad``)."""

    active: int = 0
    activations: list[Activation] = []
    bad: list[int] = []


class Documents(Protocol):
    """The table that a release store needs; ``aws.DocumentTable`` in production."""

    def get(self, value: str | int) -> dict[str, Any] | None:
        """The item with that key, or ``None``."""

    def all(self) -> list[dict[str, Any]]:
        """All items."""

    def put(self, item: dict[str, Any], *, instead_of: dict[str, Any] | None) -> bool:
        """Write ``item`` if the table still holds ``instead_of``; returns whether it was written."""

    def attempts(self) -> Iterator[None]:
        """Yield once for each attempt to read, change and ``put`` an item that others change too."""


class ReleaseStore:
    """Releases in a table of documents, keyed by ``release``. All calls block.

    Raises ``ReleaseError`` for a release that does not exist or cannot be activated, and when the table cannot be reached.
    """

    def __init__(self, table: Documents) -> None:
        self._table = table

    def pointer(self) -> Pointer:
        """The pointer to the active release."""
        return _pointer_in(self._table.get(_POINTER))

    def all(self) -> list[Release]:
        """All releases, oldest first."""
        releases = [_decoded(item) for item in self._table.all() if int(item["release"]) != _POINTER]
        return sorted(releases, key=lambda release: release.number)

    def get(self, number: int) -> Release:
        """One release; number 0 is the one with all defaults."""
        if number == _POINTER:
            return Release()
        item = self._table.get(number)
        if item is None:
            known = ", ".join(str(release.number) for release in self.all()) or "none"
            raise ReleaseError(f"release {number} does not exist; expected one of: {known}")
        return _decoded(item)

    def create(self, release: Release) -> Release:
        """Store a new release under the next number and return it; it is not active yet."""
        for _ in self._table.attempts():
            number = max((known.number for known in self.all()), default=_POINTER) + 1
            numbered = msgspec.structs.replace(release, number=number, created_at=_now())
            item = {"release": number, "body": msgspec.json.encode(numbered).decode()}
            if self._table.put(item, instead_of=None):
                return numbered
        raise ReleaseError("not created: other releases are being created at the same time; try again")

    def activate(self, number: int, why: str) -> Release:
        """Make a release active; one that was rolled back before is no longer marked bad."""
        release = self.get(number)
        for _ in self._table.attempts():
            item = self._table.get(_POINTER)
            bad = [other for other in _pointer_in(item).bad if other != number]
            if self._point(item, number, why, bad):
                return release
        raise ReleaseError("not activated: others are changing the active release at the same time; try again")

    def rollback(self, why: str, *, bad: int | None = None) -> tuple[int, Release]:
        """Mark the active release bad and activate the last one before it that is not marked bad.

        With ``bad``, this happens only if that release is still the active one. Returns the number of the bad release and
        the release that is active afterwards. Raises ``ReleaseError`` when there is no earlier good release.
        """
        for _ in self._table.attempts():
            item = self._table.get(_POINTER)
            before = _pointer_in(item)
            target_bad = before.active if bad is None else bad
            if before.active != target_bad:
                return target_bad, self.get(before.active)
            known_bad = {*before.bad, target_bad}
            good = [earlier.release for earlier in before.activations if earlier.release not in known_bad]
            if not good:
                raise ReleaseError(f"release {target_bad} not rolled back: no earlier release is good")
            target = self.get(good[-1])
            if self._point(item, target.number, why, sorted(known_bad)):
                return target_bad, target
        raise ReleaseError("not activated: others are changing the active release at the same time; try again")

    def _point(self, item: dict[str, Any] | None, number: int, why: str, bad: list[int]) -> bool:
        before = _pointer_in(item)
        activations = [*before.activations, Activation(number, _now(), why)][-_KEPT_ACTIVATIONS:]
        after = Pointer(number, activations, bad)
        return self._table.put({"release": _POINTER, "body": msgspec.json.encode(after).decode()}, instead_of=item)


class ReleaseFollower:
    """The active release, in memory; an answer keeps the one that it started with."""

    def __init__(self, store: ReleaseStore) -> None:
        self._store = store
        self.current = Release()

    async def refresh(self) -> None:
        """Read which release is active. When that raises, the last known one stays in force."""
        number = await asyncio.to_thread(lambda: self._store.pointer().active)
        if number != self.current.number:
            self.current = await asyncio.to_thread(self._store.get, number)
            log.info("release %d is active: %s", number, self.current.note)


def _pointer_in(item: dict[str, Any] | None) -> Pointer:
    return Pointer() if item is None else msgspec.json.decode(str(item["body"]), type=Pointer)


def _decoded(item: dict[str, Any]) -> Release:
    return msgspec.json.decode(str(item["body"]), type=Release)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
