"""Runs every command in the documents for analysts, operators and contributors, in order."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

PROJECT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^( *)```(sh|python)([\w -]*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
COMMANDS = {"analysts": 7, "operators": 10, "contributors": 3}
BACKGROUND = "in-another-terminal"


def blocks(name: str) -> list[tuple[str, str, str]]:
    text = (PROJECT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    return [(kind, how.strip(), textwrap.dedent(code)) for _, kind, how, code in BLOCK.findall(text)]


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Commands write to a temporary folder, and AWS is moto."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    # All moto servers of a process share their state.
    urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()
    (tmp_path / "transitions.json").write_bytes((PROJECT / "data" / "transitions.json").read_bytes())
    yield {
        **os.environ,
        "MANGA_RUNS_URL": str(tmp_path / "runs"),
        "MANGA_STORE": str(tmp_path / "store"),
        "MANGA_TRANSITION_MODEL": str(tmp_path / "transitions.json"),
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-west-2",
    }
    server.stop()


@contextmanager
def background_processes(started: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Commands for other terminals run until the block ends, then exit on SIGTERM."""
    try:
        yield
        for process in reversed(started):
            assert process.poll() is None, "expected it to run until it is stopped"
    finally:
        for process in reversed(started):
            os.killpg(process.pid, signal.SIGTERM)
        for process in started:
            process.wait(60)


@pytest.mark.filterwarnings("ignore:Tried to parse AWS.*Alarm")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_in_the_documents_works(name: str, environment: dict[str, str], tmp_path: Path) -> None:
    # Paths in the documents are relative to the project's folder; commands run in a copy of it, made of links.
    project = tmp_path / "project"
    project.mkdir()
    for entry in PROJECT.iterdir():
        if entry.name not in {"papermill_runs", ".git"}:
            (project / entry.name).symlink_to(entry)
    count = 0
    started: list[subprocess.Popen[bytes]] = []
    with background_processes(started):
        for kind, how, code in blocks(name):
            lines = [code] if kind == "python" else code.strip().splitlines()
            count += len(lines)
            for line in lines:
                command = [sys.executable, "-c", line] if kind == "python" else ["bash", "-c", line]
                if how == BACKGROUND:
                    started.append(subprocess.Popen(command, cwd=project, env=environment, start_new_session=True))
                    continue
                done = subprocess.run(
                    command, cwd=project, env=environment, capture_output=True, text=True, check=False
                )
                expected = 1 if how == "exits-with-1" else 0
                assert done.returncode == expected, f"{line}\n{done.stdout}\n{done.stderr}"
    assert count >= COMMANDS[name]


def test_links_settings_and_notebooks_in_the_documents_exist() -> None:
    """Links to files, names of settings, and notebooks."""
    from mangalib.settings import Settings

    for path in [PROJECT / "README.md", *(PROJECT / "docs").glob("*.md"), PROJECT / "notebooks" / "README.md"]:
        text = path.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
        for setting in re.findall(r"MANGA_([A-Z0-9_]+)", text):
            assert setting.lower() in Settings.model_fields, f"{path.name}: MANGA_{setting}"
