"""The whole local stack: starts each service in a process of its own, fills them, and hands out their addresses."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
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
from mangalib.settings import Settings, changed_environment, environment, load_settings

START_WITHIN_S = 60.0
STOP_WITHIN_S = 8.0


@dataclass(frozen=True)
class Stack:
    """A running stack. ``addresses`` is what the ready file holds, ``settings`` reach it from this process."""

    addresses: dict[str, Any]
    settings: Settings
    processes: dict[str, subprocess.Popen[bytes]]
    folder: Path

    def log_of(self, service: str) -> str:
        """Everything a service has written so far."""
        return (self.folder / f"{service}.log").read_text(encoding="utf-8", errors="replace")

    def token_for(self, customer: str, *, lifetime_s: float = 3600) -> str:
        """A token that the stack accepts for that customer."""
        return issue_token(self.settings, customer, lifetime_s=lifetime_s)

    def start(
        self, name: str, ready_file: Path, *command: str, **changes: object
    ) -> tuple[subprocess.Popen[bytes], dict[str, str]]:
        """One more process of a service, with the stack's settings and these ``changes``, and its addresses.

        Whoever starts it ends it. ``command`` is what Python is given instead of the service's module, before its ready file.
        Raises ``StackError`` when it does not start.
        """
        ours = {name: getattr(self.settings, name) for name in self.settings.model_fields_set}
        plain = {name: v.get_secret_value() if isinstance(v, SecretStr) else v for name, v in ours.items()}
        keys = {name.upper(): self.addresses[name] for name in ("aws_access_key_id", "aws_secret_access_key")}
        process = _start(name, ready_file, {**plain, **changes}, keys, command)
        return process, _ready(name, ready_file, process)

    def bedrock_stats(self) -> dict[str, int]:
        """The Bedrock stand-in's counters."""
        found: dict[str, int] = self.local("bedrock", "GET", "stats")
        return found

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
    """A stack for the length of the block; nothing of it is left afterwards, however the block ends.

    ``settings`` are settings by name, for all services alike. Raises ``StackError`` when a service does not start,
    with the end of its log, and ``SettingsError`` on a wrong setting before anything starts.
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
            first = [name for name in SERVICES if name != "orchestrator"]
            for name in first:
                processes[name] = _start(name, folder / f"{name}.json", values, keys)
            for name in first:
                values |= _ready(name, folder / f"{name}.json", processes[name])
                bar.update()
            with changed_environment(keys):
                _seed(_settings_of(values), bar)
            at = folder / "orchestrator.json"
            processes["orchestrator"] = _start("orchestrator", at, values, keys)
            values |= _ready("orchestrator", at, processes["orchestrator"])
            bar.update()
        page = values["page_url"].rstrip("/")
        _call(f"{page}/_local/integration", "PUT", {"urls": [values["orchestrator_url"]]}, None)
        ours = _settings_of(values)
        addresses = {
            **{name: values[name] for name in _ADDRESSES},
            "token": issue_token(ours, seed.DEMO_CUSTOMER),
            "aws_access_key_id": keys["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": keys["AWS_SECRET_ACCESS_KEY"],
            "orchestrator_log": str(folder / "orchestrator.log"),
            "pid": os.getpid(),
        }
        yield Stack(addresses, ours, processes, folder)
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
            # A Ctrl-C in the terminal is for the parent, which then stops its services in order.
            start_new_session=True,
        )


def _ready(name: str, ready_file: Path, process: subprocess.Popen[bytes]) -> dict[str, str]:
    deadline = time.monotonic() + START_WITHIN_S
    while not ready_file.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            log = ready_file.with_suffix(".log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise StackError(f"{name} did not start: {' | '.join(log[-3:]) or 'it said nothing'}")
        time.sleep(0.01)
    found: dict[str, str] = json.loads(ready_file.read_text(encoding="utf-8"))
    return found


def _seed(settings: Settings, bar: Any) -> None:
    # Embedding the catalogue needs no realistic waiting.
    url, ca = f"{settings.bedrock_url}/_local/profile", str(settings.bedrock_ca)
    profile = _call(url, "GET", None, ca)
    _call(url, "POST", {"embedding_ms": 0}, ca)
    seed.seed_dynamodb(settings)
    seed.seed_opensearch(settings)
    with ThreadPoolExecutor(1) as thread:
        # In a thread of its own, since a notebook's thread has an event loop running already.
        thread.submit(asyncio.run, seed.seed_redis(settings)).result()
    _call(url, "POST", {"embedding_ms": profile["embedding_ms"]}, ca)
    bar.update()


def _stop(processes: dict[str, subprocess.Popen[bytes]]) -> None:
    """End all services, the ones in front first, and wait until they are gone."""
    for process in reversed(processes.values()):
        process.terminate()
    deadline = time.monotonic() + STOP_WITHIN_S
    for process in reversed(processes.values()):
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
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
