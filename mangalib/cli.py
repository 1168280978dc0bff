"""The ``mangalib`` command: exit code 0 only on success; errors are one line on standard error."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from mangalib.commands import COMMANDS, running_service
from mangalib.errors import AuthError, MangaError, SettingsError
from mangalib.settings import Settings


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--stack",
    "ready_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Use the local stack with this ready file (`mangalib up --ready-file`).",
)
def cli(ready_file: Path | None) -> None:
    """MangaAssist's streaming and latency laboratory."""
    if ready_file is not None:
        _use_stack(ready_file)


def _use_stack(ready_file: Path) -> None:
    """Set this process's environment to a local stack's addresses and keys."""
    try:
        addresses = json.loads(ready_file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"--stack {ready_file}: {error}; expected the ready file of `mangalib up`") from None
    for name, value in addresses.items():
        upper = name.upper()
        if name in Settings.model_fields:
            os.environ[f"MANGA_{upper}"] = str(value)
        elif name.startswith("aws_"):
            os.environ[upper] = str(value)


@cli.command()
@click.argument("text")
@click.option("--session", "session_id", help="Continue this session.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object: text, metadata, and frames with their times."
)
def ask(text: str, session_id: str | None, as_json: bool) -> None:
    """Ask one question; print the answer as it streams, then its timeline.

    Uses MANGA_WEBSOCKET_URL and MANGA_TOKEN; without them a local stack is started for this question.
    """
    with running_service(quiet=as_json) as (url, token):
        failed = asyncio.run(_ask(url, token, text, session_id, as_json))
    if failed:
        sys.exit(1)


async def _ask(url: str, token: str, text: str, session_id: str | None, as_json: bool) -> bool:
    import msgspec

    from mangalib.client import Client
    from mangalib.protocol import Chunk, Done, Error, Status

    frames: list[dict[str, Any]] = []
    last: Done | Error | None = None
    async with Client(url, token, session_id=session_id) as client:
        async for at_ms, frame in client.ask(text):
            frames.append({"at_ms": at_ms, **msgspec.to_builtins(frame)})
            match frame:
                case Status() if not as_json:
                    click.secho(frame.message, fg="bright_black", err=True)
                case Chunk() if not as_json:
                    click.echo(frame.text, nl=False)
                case Done() | Error():
                    last = frame
    if as_json:
        report = {
            "text": "".join(frame["text"] for frame in frames if frame["type"] == "chunk"),
            "session_id": client.session_id,
            "metadata": msgspec.to_builtins(last.metadata) if isinstance(last, Done) else None,
            "error": msgspec.to_builtins(last) if isinstance(last, Error) else None,
            "frames": frames,
        }
        click.echo(json.dumps(report, ensure_ascii=False))
    else:
        click.echo()
        _print_timeline(frames, last)
    return isinstance(last, Error)


def _print_timeline(frames: list[dict[str, Any]], last: Any) -> None:
    from mangalib.protocol import Error

    if isinstance(last, Error):
        click.secho(f"{last.code}: {last.message}", fg="red", err=True)
        return
    for name, at_ms in sorted(last.metadata.timeline.items(), key=lambda item: item[1]):
        click.secho(f"{at_ms:9.1f} ms  {name}", fg="bright_black", err=True)
    first = next((frame["at_ms"] for frame in frames if frame["type"] == "chunk"), frames[-1]["at_ms"])
    click.secho(
        f"first token here after {first:.0f} ms, whole answer after {frames[-1]['at_ms']:.0f} ms "
        f"({last.metadata.tokens} tokens, {last.metadata.source})",
        err=True,
    )


for command in COMMANDS:
    cli.add_command(command)


def main() -> None:
    """Entry point; reports this package's errors in one line with exit code 1."""
    try:
        cli()
    except AuthError as error:
        sys.exit(f"mangalib: not allowed: {error}")
    except MangaError as error:
        sys.exit(f"mangalib: {error}")


if __name__ == "__main__":
    main()
