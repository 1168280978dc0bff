"""Releases: created, activated and rolled back, on a table in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from mangalib.domain import OPTIMISATIONS, ROUTES, Intent, Release, ReleaseFollower, ReleaseStore
from mangalib.domain.releases import Optimisations, Pointer
from mangalib.errors import ReleaseError
from mangalib.settings import AnswerSettings


class Table:
    """Items in memory. Another writer changes the item before each of the next ``conflicts`` writes."""

    def __init__(self) -> None:
        self.items: dict[Any, dict[str, Any]] = {}
        self.conflicts = 0

    def get(self, value: str | int) -> dict[str, Any] | None:
        return self.items.get(value)

    def all(self) -> list[dict[str, Any]]:
        return list(self.items.values())

    def put(self, item: dict[str, Any], *, instead_of: dict[str, Any] | None) -> bool:
        if self.conflicts:
            self.conflicts -= 1
            return False
        if self.items.get(item["release"]) != instead_of:
            return False
        self.items[item["release"]] = item
        return True

    def attempts(self) -> Iterator[None]:
        yield from [None] * 3


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def store(table: Table) -> ReleaseStore:
    return ReleaseStore(table)


def activate_new(store: ReleaseStore, *notes: str) -> None:
    for note in notes:
        store.activate(store.create(Release(note=note)).number, note)


def test_without_any_release_the_defaults_hold(store: ReleaseStore) -> None:
    assert store.pointer() == Pointer()
    assert store.all() == []
    assert store.get(0) == Release()
    assert all(getattr(Optimisations(), name) for name in OPTIMISATIONS)
    assert len(OPTIMISATIONS) == 10


def test_releases_are_numbered_stored_and_activated(store: ReleaseStore) -> None:
    one = store.create(Release(note="one"))
    two = store.create(one.changed("two", {"faq": "another-model"}, {"faq": 3}, 5, off=["semantic_cache"]))
    assert (one.number, two.number) == (1, 2)
    assert store.get(2) == two
    assert store.pointer().active == 0, "a new release is not active"
    store.activate(1, "first")
    store.activate(2, "second")
    pointer = store.pointer()
    assert [(activation.release, activation.why) for activation in pointer.activations] == [(1, "first"), (2, "second")]
    third = two.changed("three", {}, {}, None, on=["semantic_cache"])
    assert third.models == {"faq": "another-model"}
    assert third.optimisations == Optimisations()


def test_a_rollback_activates_the_last_good_release(store: ReleaseStore) -> None:
    activate_new(store, "one", "two", "three")
    assert store.rollback("bad")[1].note == "two"
    assert store.rollback("bad too")[1].note == "one", "three is marked bad"
    with pytest.raises(ReleaseError, match="release 1 not rolled back: no earlier release is good"):
        store.rollback("and this")
    assert store.pointer().bad == [2, 3]
    store.activate(3, "fixed")
    assert store.pointer().bad == [2], "activating a release by hand removes its mark"
    assert store.rollback("no")[1].note == "one"


def test_a_release_that_is_no_longer_active_is_not_rolled_back(store: ReleaseStore) -> None:
    activate_new(store, "one", "two", "three")
    bad, active = store.rollback("late", bad=2)
    assert (bad, active.number) == (2, 3)
    assert store.pointer().bad == []


@pytest.mark.parametrize(
    "change", [lambda s: s.create(Release()), lambda s: s.activate(1, ""), lambda s: s.rollback("")]
)
def test_a_change_is_retried_after_conflicts_and_gives_up_in_the_end(
    store: ReleaseStore, table: Table, change: Callable[[ReleaseStore], Any]
) -> None:
    activate_new(store, "one", "two")
    table.conflicts = 2
    change(store)
    assert table.conflicts == 0
    activate_new(store, "three")
    table.conflicts = 3
    with pytest.raises(ReleaseError, match="at the same time; try again"):
        change(store)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda s: s.get(7), "release 7 does not exist; expected one of: none"),
        (lambda s: s.activate(7, ""), "release 7 does not exist"),
        (
            lambda s: Release().changed("", {}, {}, None, off=["speed"]),
            "optimisation 'speed'; expected one of warm_pool",
        ),
        (lambda s: Release().changed("", {"nonsense": "m"}, {}, None), "intent 'nonsense'"),
        (lambda s: Release().changed("", {}, {"nonsense": 1}, None), "intent 'nonsense'"),
        (lambda s: Release().changed("", {}, {}, 0), "chunk_batch_size 0"),
        (lambda s: s.rollback(""), "no earlier release is good"),
    ],
)
def test_an_error_names_the_value_and_what_was_expected(
    store: ReleaseStore, act: Callable[[ReleaseStore], Any], message: str
) -> None:
    with pytest.raises(ReleaseError, match=message):
        act(store)


def test_without_model_routing_every_intent_uses_the_large_model_and_retrieval() -> None:
    usual = ROUTES[Intent.GREETING]
    off = Release().changed("", {}, {}, None, off=["model_routing"])
    assert Release().route(Intent.GREETING, usual) is usual
    unrouted = off.route(Intent.GREETING, usual)
    assert (unrouted.large_model, unrouted.retrieval, unrouted.status_text) == (True, True, usual.status_text)


def test_a_release_may_override_model_and_batch_size() -> None:
    settings = AnswerSettings()
    plain, changed = Release(), Release(models={"faq": "another-model"}, chunk_batch_size=7)
    assert changed.model_id(Intent.FAQ, ROUTES[Intent.FAQ], settings) == "another-model"
    assert plain.model_id(Intent.FAQ, ROUTES[Intent.FAQ], settings) == settings.haiku_model_id
    assert (plain.batch_size(settings), changed.batch_size(settings)) == (settings.chunk_batch_size, 7)
    assert changed.changed("", {}, {}, None, off=["chunk_batching"]).batch_size(settings) == 1


async def test_a_follower_keeps_the_last_release_while_the_table_cannot_be_read(
    store: ReleaseStore, table: Table
) -> None:
    follower = ReleaseFollower(store)
    await follower.refresh()
    assert follower.current == Release()
    activate_new(store, "one")
    await follower.refresh()
    assert follower.current.note == "one"
    activate_new(store, "two")
    table.items[2]["body"] = "{}}"
    with pytest.raises(msgspec.DecodeError):
        await follower.refresh()
    assert follower.current.note == "one"
