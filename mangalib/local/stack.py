"""The local stack: starts each service in its own process, seeds them, and provides their addresses."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from tqdm.auto import tqdm

from mangalib.errors import StackError
from mangalib.local import seed
from mangalib.local.service import SERVICES, make_stack_folder, remove_stack_folder
from mangalib.local.tls import make_certificates
from mangalib.serving import issue_token
from mangalib.settings import SeedSettings, Settings, changed_environment, environment, load_settings

START_WITHIN_S = 60.0
STOP_WITHIN_S = 8.0


@dataclass(frozen=True)
class Stack:
    """A running stack: ``addresses`` as in the ready file, and ``settings`` that connect this process to it."""

    addresses: dict[str, Any]
    settings: Settings
    processes: dict[str, subprocess.Popen[bytes]]
    folder: Path

    def log_of(self, service: str) -> str:
        """A service's log so far."""
        return (self.folder / f"{service}.log").read_text(encoding="utf-8", errors="replace")

    def token_for(self, customer: str, *, lifetime_s: float = 3600) -> str:
        """A token for ``customer`` that the stack accepts."""
        return issue_token(self.settings, customer, lifetime_s=lifetime_s)

    def start(
        self, name: str, ready_file: Path, *command: str, **changes: object
    ) -> tuple[subprocess.Popen[bytes], dict[str, str]]:
        """Start another process of a service with the stack's settings and ``changes``; returns it with its addresses.

        The caller terminates it. ``command`` replaces the service's module as Python's arguments before the ready file.
        Raises ``StackError`` when it does not start.
        """
        set_here = {name: getattr(self.settings, name) for name in self.settings.model_fields_set}
        values = {name: v.get_secret_value() if isinstance(v, SecretStr) else v for name, v in set_here.items()}
        keys = {name.upper(): self.addresses[name] for name in ("aws_access_key_id", "aws_secret_access_key")}
        process = _start(name, ready_file, {**values, **changes}, keys, command)
        return process, _wait_until_ready(name, ready_file, process)

    def bedrock_stats(self) -> dict[str, int]:
        """The Bedrock stand-in's counters."""
        stats: dict[str, int] = self.local("bedrock", "GET", "stats")
        return stats

    def local(self, service: str, method: str, path: str, body: object = None) -> Any:
        """Call the admin interface of ``bedrock``, ``gateway``, ``opensearch`` or ``pagerduty``: its ``/_local/{path}``."""
        base = {
            "bedrock": self.addresses["bedrock_url"],
            "gateway": self.addresses["page_url"].rstrip("/"),
            "opensearch": self.addresses["opensearch_url"],
            "pagerduty": self.addresses["pagerduty_url"].removesuffix("/v2/enqueue"),
        }[service]
        return _call(f"{base}/_local/{path}", method, body, self.addresses["bedrock_ca"])


@contextmanager
def running_stack(*, quiet: bool = False, **settings: object) -> Iterator[Stack]:
    """A stack for the length of the block; its processes and files are removed however the block ends.

    ``settings`` are settings by name, for all services. Raises ``StackError`` with the end of the log when a service does
    not start, and ``SettingsError`` for a wrong setting before anything starts.
    """
    load_settings(**settings)
    with ExitStack() as stack:
        folder = make_stack_folder()
        stack.callback(remove_stack_folder, folder)
        yield stack.enter_context(_started(folder, settings, quiet))


@contextmanager
def _started(folder: Path, settings: dict[str, object], quiet: bool) -> Iterator[Stack]:
    make_certificates(folder)
    values: dict[str, Any] = {
        **settings,
        "target": "local",
        "local_dir": folder,
        "jwt_secret": secrets.token_urlsafe(32),
    }
    keys = {"AWS_ACCESS_KEY_ID": "LOCAL" + secrets.token_hex(8).upper(), "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20)}
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        with tqdm(total=len(SERVICES) + 2, desc="starting the local stack", disable=quiet, leave=False) as bar:
            dependencies = [name for name in SERVICES if name != "orchestrator"]
            _start_all(dependencies, processes, folder, values, keys)
            for name in dependencies:
                values |= _wait_until_ready(name, folder / f"{name}.json", processes[name])
                bar.update()
            with changed_environment(keys):
                _seed(_settings_of(values), bar)
            _start_all(["orchestrator"], processes, folder, values, keys)
            values |= _wait_until_ready("orchestrator", folder / "orchestrator.json", processes["orchestrator"])
            bar.update()
        page = values["page_url"].rstrip("/")
        _call(f"{page}/_local/integration", "PUT", {"urls": [values["orchestrator_url"]]}, None)
        stack_settings = _settings_of(values)
        addresses = {
            **{name: values[name] for name in _ADDRESSES},
            "token": issue_token(stack_settings, seed.DEMO_CUSTOMER),
            "aws_access_key_id": keys["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": keys["AWS_SECRET_ACCESS_KEY"],
            "orchestrator_log": str(folder / "orchestrator.log"),
            "pid": os.getpid(),
        }
        yield Stack(addresses, stack_settings, processes, folder)
    finally:
        _stop(processes)


_ADDRESSES = (
    "websocket_url",
    "page_url",
    "management_url",
    "bedrock_url",
    "bedrock_ca",
    "opensearch_url",
    "aws_url",
    "redis_url",
    "pagerduty_url",
    "pagerduty_routing_key",
)


def _settings_of(values: dict[str, Any]) -> Settings:
    return load_settings(**{name: value for name, value in values.items() if name in Settings.model_fields})


def _start_all(
    names: list[str],
    processes: dict[str, subprocess.Popen[bytes]],
    folder: Path,
    values: dict[str, Any],
    keys: dict[str, str],
) -> None:
    """Start services and enter them in ``processes``."""

    def start() -> None:
        for name in names:
            processes[name] = _start(name, folder / f"{name}.json", values, keys)

    with ThreadPoolExecutor(1) as thread:
        # In another thread, as Ctrl-C interrupts the main one: a process that had just started would not be stopped.
        thread.submit(start).result()


def _start(
    name: str, ready_file: Path, values: dict[str, Any], keys: dict[str, str], command: tuple[str, ...] = ()
) -> subprocess.Popen[bytes]:
    known = {setting: value for setting, value in values.items() if setting in Settings.model_fields}
    with ready_file.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, *(command or ("-m", "mangalib.local.service", name)), str(ready_file)],
            env=environment(known, **keys, AWS_EC2_METADATA_DISABLED="true"),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            # Ctrl-C in the terminal must reach only the parent, which then stops its services in order.
            start_new_session=True,
        )


def _wait_until_ready(name: str, ready_file: Path, process: subprocess.Popen[bytes]) -> dict[str, str]:
    deadline = time.monotonic() + START_WITHIN_S
    while not ready_file.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            log = ready_file.with_suffix(".log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            reason = " | ".join(log[-3:]) or f"nothing in its log; expected it ready within {START_WITHIN_S:g} s"
            raise StackError(f"{name} did not start: {reason}")
        time.sleep(0.01)
    addresses: dict[str, str] = json.loads(ready_file.read_text(encoding="utf-8"))
    return addresses


def _seed(settings: SeedSettings, bar: Any) -> None:
    # Embedding the catalogue needs no realistic latency.
    url, ca = f"{settings.bedrock_url}/_local/profile", str(settings.bedrock_ca)
    profile = _call(url, "GET", None, ca)
    _call(url, "POST", {"embedding_ms": 0}, ca)
    seed.seed_dynamodb(settings)
    seed.seed_opensearch(settings)
    with ThreadPoolExecutor(1) as thread:
        # In another thread, since a notebook's thread already runs an event loop.
        thread.submit(asyncio.run, seed.seed_redis(settings)).result()
    _call(url, "POST", {"embedding_ms": profile["embedding_ms"]}, ca)
    bar.update()


def _stop(processes: dict[str, subprocess.Popen[bytes]]) -> None:
    """Terminate all services, the orchestrator and gateway first, and wait until they have exited."""
    for process in reversed(processes.values()):
        process.terminate()
    deadline = time.monotonic() + STOP_WITHIN_S
    for process in reversed(processes.values()):
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            # With its children: Redis runs in a process of its own.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdin is not None:
            process.stdin.close()


def _call(url: str, method: str, body: object, ca_file: str | None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    context = ssl.create_default_context(cafile=ca_file) if url.startswith("https") else None
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as response:
            return json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            raise StackError(f"{method} {url}: {error.status} {error.read().decode(errors='replace')}") from None
