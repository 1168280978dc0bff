"""The ``mangalib`` command: exit 0 only on success, one line on standard error where something is wrong."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from tqdm.auto import tqdm

from mangalib.atomic import write_atomically
from mangalib.commands.benchmark import benchmark, verdict
from mangalib.commands.precompute import cache_accuracy, cache_learn, catalogue_changed, hit_rate, transitions, warm
from mangalib.commands.release import release
from mangalib.commands.service import service, sigterm_as_interrupt
from mangalib.errors import AuthError, MangaError, SettingsError
from mangalib.settings import Settings

SUPERVISE_EVERY_S = 0.5


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--stack",
    "ready_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Talk to the local stack whose ready file this is (`mangalib up --ready-file`).",
)
def cli(ready_file: Path | None) -> None:
    """MangaAssist's streaming and latency laboratory."""
    if ready_file is not None:
        _reach(ready_file)


def _reach(ready_file: Path) -> None:
    """Put a local stack's addresses and keys into this process's environment."""
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
@click.option(
    "--ready-file", type=click.Path(path_type=Path), help="Write the addresses there, as JSON, when all answer."
)
def up(ready_file: Path | None) -> None:
    """Start the local stack, print its addresses, and run until Ctrl-C or SIGTERM."""
    from mangalib.local.stack import running_stack

    with sigterm_as_interrupt(), suppress(KeyboardInterrupt), running_stack() as stack:
        text = json.dumps(stack.addresses, indent=2)
        if ready_file is not None:
            write_atomically(ready_file, text + "\n")
        click.echo(text)
        try:
            while True:
                time.sleep(SUPERVISE_EVERY_S)
                dead = [name for name, process in stack.processes.items() if process.poll() is not None]
                if dead:
                    last = stack.log_of(dead[0]).strip().splitlines()[-1:]
                    raise click.ClickException(f"{dead[0]} ended by itself: {''.join(last)}")
        finally:
            if ready_file is not None:
                ready_file.unlink(missing_ok=True)


@cli.command()
@click.argument("text")
@click.option("--session", "session_id", help="Go on with this session.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: text, metadata and frames with their times.")
def ask(text: str, session_id: str | None, as_json: bool) -> None:
    """Ask one question; the answer streams as it comes, then its timeline.

    Uses MANGA_WEBSOCKET_URL and MANGA_TOKEN; without them a local stack is started for this question.
    """
    with service(quiet=as_json) as (url, token):
        failed = asyncio.run(_ask(url, token, text, session_id, as_json))
    if failed:
        sys.exit(1)


async def _ask(url: str, token: str, text: str, session_id: str | None, as_json: bool) -> bool:
    import msgspec

    from mangalib.serving.client import Client
    from mangalib.serving.messages import Chunk, Done, Error, Status

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
        whole = "".join(frame["text"] for frame in frames if frame["type"] == "chunk")
        metadata = msgspec.to_builtins(last.metadata) if isinstance(last, Done) else None
        error = msgspec.to_builtins(last) if isinstance(last, Error) else None
        report = {
            "text": whole,
            "session_id": client.session_id,
            "metadata": metadata,
            "error": error,
            "frames": frames,
        }
        click.echo(json.dumps(report, ensure_ascii=False))
    else:
        click.echo()
        _print_timeline(frames, last)
    return isinstance(last, Error)


def _print_timeline(frames: list[dict[str, Any]], last: Any) -> None:
    from mangalib.serving.messages import Error

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


@cli.command()
@click.argument("notebook")
@click.option("-p", "parameters", type=(str, str), multiple=True, metavar="NAME VALUE", help="Set a parameter.")
@click.option("--output-dir", type=click.Path(path_type=Path, file_okay=False), help="Instead of papermill_runs/.")
@click.option("--html", is_flag=True, help="Also write the executed notebook as a page.")
@click.option("--json", "as_json", is_flag=True, help="Print the result records as JSON.")
def run(
    notebook: str, parameters: tuple[tuple[str, str], ...], output_dir: Path | None, html: bool, as_json: bool
) -> None:
    """Run a notebook headless, or `all` of them; leaves the executed notebook and its result record."""
    from mangalib.lab import jobs

    values = {name: _value(text) for name, text in parameters}
    sources = jobs.find_notebooks(notebook)
    for source in sources:
        jobs.check_parameters(source, values)
    runs = []
    for source in tqdm(sources, desc="notebooks", disable=len(sources) < 2 or as_json):
        with sigterm_as_interrupt():
            done = jobs.run_notebook(source, values, output_dir or jobs.RUNS)
        runs.append(done)
        if not as_json:
            click.echo(f"{source.stem}: {done.record['status']}  {done.notebook}")
            for name, value in done.record["results"].items():
                click.echo(f"    {name}: {value}")
            if done.record["error"]:
                click.secho(f"    {done.record['error']}", fg="red", err=True)
        if html:
            page = jobs.write_html(done.notebook)
            if not as_json:
                click.echo(f"    to read: {page}")
    if as_json:
        click.echo(json.dumps([done.record | {"output": str(done.notebook)} for done in runs], ensure_ascii=False))
    if not all(done.ok for done in runs):
        sys.exit(1)


def _value(text: str) -> Any:
    """A parameter as papermill's own command takes it: a number, true, false, null or JSON where it looks like one."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


for command in (
    benchmark,
    verdict,
    release,
    hit_rate,
    transitions,
    warm,
    catalogue_changed,
    cache_learn,
    cache_accuracy,
):
    cli.add_command(command)


def main() -> None:
    """Entry point; turns this package's errors into one line and exit code 1."""
    try:
        cli()
    except AuthError as error:
        sys.exit(f"mangalib: not allowed: {error}")
    except MangaError as error:
        sys.exit(f"mangalib: {error}")


if __name__ == "__main__":
    main()
