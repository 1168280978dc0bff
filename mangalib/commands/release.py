"""``mangalib release``: create, activate and roll back releases."""

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
    """Releases: versions of what can be changed without a build; each can be rolled back."""


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
    """List all releases; the active one and those that were taken back are marked."""
    from msgspec import to_builtins

    store = _releases()
    pointer, known = store.pointer(), store.all()
    if as_json:
        click.echo(json.dumps({"pointer": to_builtins(pointer), "releases": to_builtins(known)}, ensure_ascii=False))
        return
    for listed in known:
        mark = "active" if listed.number == pointer.active else "taken back" if listed.number in pointer.bad else ""
        click.echo(f"{listed.number:5}  {mark:11} {listed.created_at}  {listed.note}")


@release.command("show")
@click.argument("number", type=int, required=False)
def release_show(number: int | None) -> None:
    """Show one release as JSON; without a number, the active one."""
    from msgspec import to_builtins

    store = _releases()
    shown = store.get(store.pointer().active if number is None else number)
    click.echo(json.dumps(to_builtins(shown), indent=2, ensure_ascii=False))


@release.command("create")
@click.option("--note", default="", help="The purpose of the release.")
@click.option("--model", "models", type=(str, str), multiple=True, metavar="INTENT MODEL_ID")
@click.option("--prompt", "prompts", type=(str, int), multiple=True, metavar="INTENT VERSION")
@click.option("--batch-size", type=int, help="Deltas per chunk.")
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
    """Create a release from the active one with the given changes, and print its number. It is not active yet."""
    store = _releases()
    active = store.get(store.pointer().active)
    created = store.create(active.changed(note, dict(models), dict(prompts), batch_size, off=off, on=on))
    click.echo(str(created.number))


@release.command("activate")
@click.argument("number", type=int)
@click.option("--why", default="by hand", help="Reason, kept with the activation.")
def release_activate(number: int, why: str) -> None:
    """Activate a release, and wait until orchestrators have had the time to follow."""
    activated = _releases().activate(number, why)
    _wait_for_orchestrators()
    click.echo(f"release {activated.number} is active: {activated.note}")


@release.command("rollback")
@click.option("--why", default="by hand", help="Reason, kept with the activation.")
def release_rollback(why: str) -> None:
    """Roll the active release back to the last good one before it."""
    taken_back, active = _releases().rollback(why)
    _wait_for_orchestrators()
    click.echo(f"release {taken_back} taken back, release {active.number} is active again: {active.note}")


def _wait_for_orchestrators() -> None:
    time.sleep(load_settings().release_refresh_s)
