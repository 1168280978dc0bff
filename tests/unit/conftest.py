"""Unit tests start no process, reach nothing beyond this machine, and do not sleep; one that does is failed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest

# Audit events of CPython: https://docs.python.org/3/library/audit_events.html
FORBIDDEN = {"os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen", "time.sleep"}

_seen: list[str] | None = None


def _is_loopback(address: Any) -> bool:
    if not isinstance(address, tuple):
        return True  # a Unix socket
    try:
        return ip_address(address[0]).is_loopback
    except ValueError:
        return address[0] == "localhost"


def _guard(event: str, arguments: tuple[Any, ...]) -> None:
    if _seen is None:
        return
    if event in FORBIDDEN or (event == "socket.connect" and not _is_loopback(arguments[1])):
        _seen.append(f"{event}{arguments!r}")
        raise RuntimeError(f"{event} in a unit test; such a test belongs to tests/integration or tests/system")


# An audit hook cannot be removed; outside unit tests it does nothing.
sys.addaudithook(_guard)


@pytest.fixture(autouse=True)
def _no_process_no_network_no_sleep() -> Iterator[None]:
    """The code under test may swallow the guard's error, so what it saw is asserted as well."""
    global _seen
    _seen = seen = []
    yield
    _seen = None
    assert not seen, f"a unit test must not do this: {seen}"
