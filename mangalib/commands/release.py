"""``mangalib release``: make, activate and take back what can be changed without a build."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import click

from mangalib.settings import load_settings

if TYPE_CHECKING:
    from mangalib.domain import ReleaseStore


@click.group()
def release() -> None:
    """Releases: what can be changed without a build, as versions that can be taken back."""


def _releases() -> ReleaseStore:
    from mangalib.aws import DocumentTable, dynamodb_client
    from mangalib.domain import ReleaseStore
    from mangalib.errors import ReleaseError

    settings = load_settings()
    table = DocumentTable(dynamodb_client(settings), settings.releases_table, key="release", error=ReleaseError)
    return ReleaseStore(table)


@release.command("list")
@click.option("--json", "as_json", is_flag=True)
def release_list(as_json: bool) -> None:
    """All releases; the active one is marked, and those that were taken back."""
    from msgspec import to_builtins

    store = _releases()
    pointer, known = store.pointer(), store.all()
    if as_json:
        click.echo(json.dumps({"pointer": to_builtins(pointer), "releases": to_builtins(known)}, ensure_ascii=False))
        return
    for one in known:
        mark = "active" if one.number == pointer.active else "taken back" if one.number in pointer.bad else ""
        click.echo(f"{one.number:5}  {mark:11} {one.created_at}  {one.note}")


@release.command("show")
@click.argument("number", type=int, required=False)
def release_show(number: int | None) -> None:
    """One release as JSON; the active one without a number."""
    from msgspec import to_builtins

    store = _releases()
    found = store.get(store.pointer().active if number is None else number)
    click.echo(json.dumps(to_builtins(found), indent=2, ensure_ascii=False))


@release.command("create")
@click.option("--note", default="", help="What it is for.")
@click.option("--model", "models", type=(str, str), multiple=True, metavar="INTENT MODEL_ID")
@click.option("--prompt", "prompts", type=(str, int), multiple=True, metavar="INTENT VERSION")
@click.option("--batch-size", type=int, help="Deltas in a chunk.")
@click.option("--off", multiple=True, metavar="OPTIMISATION", help="Switch one of the ten off.")
@click.option("--on", multiple=True, metavar="OPTIMISATION", help="Switch one on again.")
def release_create(
    note: str,
    models: tuple[tuple[str, str], ...],
    prompts: tuple[tuple[str, int], ...],
    batch_size: int | None,
    off: tuple[str, ...],
    on: tuple[str, ...],
) -> None:
    """Make a release from the active one, with what is said here changed; prints its number. It is not active yet."""
    store = _releases()
    active = store.get(store.pointer().active)
    made = store.create(active.changed(note, dict(models), dict(prompts), batch_size, off=off, on=on))
    click.echo(str(made.number))


@release.command("activate")
@click.argument("number", type=int)
@click.option("--why", default="by hand", help="Kept with the activation.")
def release_activate(number: int, why: str) -> None:
    """Make a release active; comes back when orchestrators have had the time to follow."""
    found = _releases().activate(number, why)
    _until_followed()
    click.echo(f"release {found.number} is active: {found.note}")


@release.command("rollback")
@click.option("--why", default="by hand", help="Kept with the activation.")
def release_rollback(why: str) -> None:
    """Take the active release back: the last good one before it is active again."""
    taken_back, active = _releases().rollback(why)
    _until_followed()
    click.echo(f"release {taken_back} taken back, release {active.number} is active again: {active.note}")


def _until_followed() -> None:
    time.sleep(load_settings().release_refresh_s)
