"""The commands, run as processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from mangalib.local.stack import Stack
from mangalib.settings import environment
from tests.conftest import QUICK

MANGALIB = [sys.executable, "-m", "mangalib.cli"]
READY_WITHIN_S = 60


def mangalib(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*MANGALIB, *arguments], capture_output=True, text=True, timeout=120, env=env, check=False)


def connection_to(stack: Stack) -> dict[str, str]:
    return environment({"websocket_url": stack.addresses["websocket_url"], "token": stack.addresses["token"]})


@contextmanager
def up(ready_file: Path, command: str = "up") -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    process = subprocess.Popen(
        [*MANGALIB, command, "--ready-file", str(ready_file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(QUICK),
    )
    try:
        deadline = time.monotonic() + READY_WITHIN_S
        while not ready_file.exists():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield process, json.loads(ready_file.read_text())
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=10)
    return not alive


def test_two_stacks_side_by_side_and_a_clean_end_each_way(tmp_path: Path) -> None:
    with up(tmp_path / "one.json") as (one, first), up(tmp_path / "two.json", "chat") as (two, second):
        wanted = {
            "websocket_url",
            "page_url",
            "management_url",
            "bedrock_url",
            "bedrock_ca",
            "opensearch_url",
            "aws_url",
            "redis_url",
            "token",
            "aws_access_key_id",
            "aws_secret_access_key",
            "pid",
        }
        assert wanted <= first.keys()
        assert not {value for key, value in first.items() if key.endswith("_url")} & set(second.values())
        assert (tmp_path / "one.json").stat().st_mode & 0o077 == 0, "it holds a token: its owner's only"
        listening = [c for p in family(one) for c in p.net_connections() if c.status == psutil.CONN_LISTEN]
        assert listening
        assert {connection.laddr.ip for connection in listening} == {"127.0.0.1"}
        first_processes, second_processes = family(one), family(two)
        assert len(first_processes) >= 7
        one.send_signal(signal.SIGTERM)
        output, errors = one.communicate(timeout=20)
        assert one.returncode == 0, errors
        assert json.loads(output[output.index("{") :])["pid"] == first["pid"]
        assert gone(first_processes)
        assert not (tmp_path / "one.json").exists()
        assert not Path(first["bedrock_ca"]).exists(), "no file is left either"
        two.kill()
        assert gone(second_processes), "a killed command leaves no process either"
        assert not Path(second["bedrock_ca"]).exists()


def test_ctrl_c_while_starting_leaves_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen([*MANGALIB, "up"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + READY_WITHIN_S
    while len(family(process)) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    children = family(process)
    process.send_signal(signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()  # it has exited, unless this test fails
    assert "Traceback" not in errors
    assert gone(children)


def test_ask_streams_an_answer_and_shows_its_timeline(stack: Stack) -> None:
    done = mangalib("ask", "Tell me about One Piece", env=connection_to(stack))
    assert done.returncode == 0, done.stderr
    assert "Eiichiro Oda" in done.stdout
    assert "Looking up manga for you..." in done.stderr
    assert "first_token" in done.stderr


def test_ask_as_json_continues_a_session(stack: Stack) -> None:
    done = mangalib("ask", "--json", "--session", "my-session", "Hello there", env=connection_to(stack))
    report = json.loads(done.stdout)
    assert report["session_id"] == "my-session"
    assert report["metadata"]["intent"] == "greeting"
    assert report["text"] == "".join(frame["text"] for frame in report["frames"] if frame["type"] == "chunk")


@pytest.mark.parametrize(
    ("arguments", "changes", "message"),
    [
        (["ask", ""], {}, "text: empty"),
        (["ask", "hi"], {"token": "nonsense"}, "not allowed"),
        (["ask", "hi"], {"websocket_url": "ws://127.0.0.1:9/prod"}, "no connection to the gateway"),
        (["ask", "hi"], {"pool_size": -3}, "MANGA_POOL_SIZE='-3'"),
        (["up"], {"chunk_batch_size": 0}, "MANGA_CHUNK_BATCH_SIZE='0'"),
        (["run", "99_nothing"], {}, "has: 01_streaming_walkthrough"),
        (["run", "01_streaming_walkthrough", "-p", "speed", "9"], {}, "no parameter 'speed'"),
        (["run", "02_first_token_budget", "-p", "samples", "many"], {}, "expected int"),
    ],
)
def test_an_error_is_one_line_and_exit_code_1(
    stack: Stack, arguments: list[str], changes: dict[str, object], message: str
) -> None:
    env = connection_to(stack) | {f"MANGA_{name.upper()}": str(value) for name, value in changes.items()}
    done = mangalib(*arguments, env=env)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_every_command_has_help() -> None:
    releases = [["release", name] for name in ("list", "show", "create", "activate", "rollback")]
    for command in ([], ["up"], ["chat"], ["ask"], ["run"], ["benchmark"], ["verdict"], ["release"], *releases):
        done = mangalib(*command, "--help")
        assert done.returncode == 0
        assert "Usage" in done.stdout


@pytest.mark.parametrize("module", ["mangalib", "mangalib.cli"])
def test_importing_the_package_or_the_command_line_loads_no_heavy_library(module: str) -> None:
    heavy = ("pandas", "plotly", "sklearn", "papermill", "scipy", "pyarrow", "boto3", "moto")
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert loaded.stdout.strip() == "[]"


def test_the_environment_of_this_test_names_no_service() -> None:
    """Else the tests above would talk to it."""
    assert {name for name in os.environ if name.startswith("MANGA_")} == {"MANGA_STORE"}
