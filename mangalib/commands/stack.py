"""``mangalib up`` and ``mangalib chat``: the local stack until it is interrupted."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mangalib.commands.running import sigterm_as_interrupt
from mangalib.storage import write_atomically

if TYPE_CHECKING:
    from mangalib.local import Stack

SUPERVISE_EVERY_S = 0.5

_ready_file = click.option(
    "--ready-file",
    type=click.Path(path_type=Path),
    help="Write the addresses to this file as JSON once all services are ready.",
)


@click.command()
@_ready_file
def up(ready_file: Path | None) -> None:
    """Start the local stack, print its addresses, and run until Ctrl-C or SIGTERM."""
    _run_stack(ready_file, lambda stack: click.echo(json.dumps(stack.addresses, indent=2)))


@click.command()
@_ready_file
def chat(ready_file: Path | None) -> None:
    """Start the local stack, print the address of its chat page, and run until Ctrl-C or SIGTERM."""
    _run_stack(
        ready_file,
        lambda stack: click.echo(
            f"The chat is at {stack.addresses['page_url']} for browsers on this machine. Ctrl-C stops it."
        ),
    )


def _run_stack(ready_file: Path | None, report: Callable[[Stack], None]) -> None:
    from mangalib.local import running_stack

    with sigterm_as_interrupt(), suppress(KeyboardInterrupt), running_stack() as stack:
        if ready_file is not None:
            write_atomically(ready_file, json.dumps(stack.addresses, indent=2) + "\n")
        report(stack)
        try:
            while True:
                time.sleep(SUPERVISE_EVERY_S)
                exited = [name for name, process in stack.processes.items() if process.poll() is not None]
                if exited:
                    last = stack.log_of(exited[0]).strip().splitlines()[-1:]
                    raise click.ClickException(
                        f"{exited[0]} exited unexpectedly: {''.join(last) or 'its log is empty'}"
                    )
        finally:
            if ready_file is not None:
                ready_file.unlink(missing_ok=True)
