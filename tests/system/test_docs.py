"""Every command of the documentation for analysts, operators and contributors is run, in its order."""

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
BESIDE = "in-another-terminal"


def blocks(name: str) -> list[tuple[str, str, str]]:
    text = (PROJECT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    return [(kind, how.strip(), textwrap.dedent(code)) for _, kind, how, code in BLOCK.findall(text)]


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Nothing of the project's is written to, and AWS is moto."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    # All of moto's servers of a process share what they know.
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
def beside(started: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """What was started in other terminals ends by SIGTERM, and leaves nothing behind."""
    try:
        yield
        for process in reversed(started):
            assert process.poll() is None, "it was to run until it is stopped"
    finally:
        for process in reversed(started):
            os.killpg(process.pid, signal.SIGTERM)
        for process in started:
            process.wait(60)


@pytest.mark.filterwarnings("ignore:Tried to parse AWS.*Alarm")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_works(name: str, environment: dict[str, str], tmp_path: Path) -> None:
    # The documents say where things are as seen from the project's folder; what they write goes to one beside it.
    place = tmp_path / "project"
    place.mkdir()
    for entry in PROJECT.iterdir():
        if entry.name not in {"papermill_runs", ".git"}:
            (place / entry.name).symlink_to(entry)
    count = 0
    started: list[subprocess.Popen[bytes]] = []
    with beside(started):
        for kind, how, code in blocks(name):
            lines = [code] if kind == "python" else code.strip().splitlines()
            count += len(lines)
            for line in lines:
                command = [sys.executable, "-c", line] if kind == "python" else ["bash", "-c", line]
                if how == BESIDE:
                    started.append(subprocess.Popen(command, cwd=place, env=environment, start_new_session=True))
                    continue
                done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
                expected = 1 if how == "exits-with-1" else 0
                assert done.returncode == expected, f"{line}\n{done.stdout}\n{done.stderr}"
    assert count >= COMMANDS[name]


def test_the_documents_say_only_what_is_there() -> None:
    """Links to files, names of settings, and notebooks."""
    from mangalib.settings import Settings

    for path in [PROJECT / "README.md", *(PROJECT / "docs").glob("*.md"), PROJECT / "notebooks" / "README.md"]:
        text = path.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
        for setting in re.findall(r"MANGA_([A-Z0-9_]+)", text):
            assert setting.lower() in Settings.model_fields, f"{path.name}: MANGA_{setting}"
