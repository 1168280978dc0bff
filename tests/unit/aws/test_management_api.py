"""The management API: which responses are retried, for how long, and what is raised in the end. The pool is a fake."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mangalib.aws.http1 import Endpoint
from mangalib.aws.management_api import ManagementApi, management_endpoint
from mangalib.errors import (
    BusyError,
    ConnectionGoneError,
    MangaError,
    SettingsError,
    SlowClientError,
    TransportError,
    TransportTimeoutError,
)
from mangalib.settings import AddressSettings, TransportSettings

ENDPOINT = Endpoint("gateway.example", 443, None, "/prod")
QUICK = TransportSettings(send_backoff_ms=0.01, send_attempts=3, breaker_failures=1000)


class Gateway:
    """A pool with one connection that responds with each of ``outcomes`` in turn, then with the last one for ever."""

    def __init__(self, *outcomes: int | Exception) -> None:
        self.outcomes = list(outcomes)
        self.requests: list[tuple[str, str, bytes]] = []

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Gateway]:
        yield self

    async def send(self, method: str, target: str, headers: dict[str, str], body: bytes, *, timeout_s: float) -> int:
        self.requests.append((method, target, body))
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def read_all(self, *, timeout_s: float) -> bytes:
        return b"body"


class Unsigned:
    """Signs nothing."""

    def sign(self, *request: object) -> dict[str, str]:
        return {}


def api_of(gateway: Gateway, settings: TransportSettings = QUICK) -> ManagementApi:
    pool: Any = gateway
    signer: Any = Unsigned()
    return ManagementApi(pool, signer, ENDPOINT, settings)


def soon() -> float:
    return time.monotonic() + 60


async def test_a_frame_is_posted_to_its_connection() -> None:
    gateway = Gateway(200)
    await api_of(gateway).post("a=/b", b"frame", deadline_s=soon())
    assert gateway.requests == [("POST", "/prod/%40connections/a%3D%2Fb", b"frame")]


@pytest.mark.parametrize(
    "failure", [500, 503, TransportTimeoutError("late"), TransportError("reset"), BusyError("full")]
)
async def test_a_temporary_failure_is_retried(failure: int | Exception) -> None:
    gateway = Gateway(failure, failure, 200)
    await api_of(gateway).post("c", b"frame", deadline_s=soon())
    assert len(gateway.requests) == 3


async def test_after_all_attempts_the_frame_is_not_delivered() -> None:
    gateway = Gateway(503)
    with pytest.raises(
        TransportError, match="frame not delivered; attempts: 3, last error: the management API returned 503"
    ):
        await api_of(gateway).post("c", b"frame", deadline_s=soon())
    assert len(gateway.requests) == 3


async def test_without_retry_budget_there_is_one_attempt() -> None:
    gateway = Gateway(503)
    settings = QUICK.model_copy(update={"retry_share": 0.0})
    with pytest.raises(TransportError, match="attempts: 1, "):
        await api_of(gateway, settings).post("c", b"frame", deadline_s=soon())
    assert len(gateway.requests) == 1


async def test_a_full_buffer_is_retried_more_often_than_a_failure() -> None:
    gateway = Gateway(*[429] * 10, 200)
    await api_of(gateway).post("c", b"frame", deadline_s=soon())
    assert len(gateway.requests) == 11


@pytest.mark.parametrize(("outcome", "error"), [(429, SlowClientError), (503, TransportError)])
async def test_after_the_deadline_nothing_is_retried(outcome: int, error: type[MangaError]) -> None:
    gateway = Gateway(outcome)
    with pytest.raises(error):
        await api_of(gateway).post("c", b"frame", deadline_s=time.monotonic())
    assert len(gateway.requests) == 1


@pytest.mark.parametrize(("status", "error"), [(410, ConnectionGoneError), (403, MangaError), (413, MangaError)])
async def test_a_permanent_refusal_is_not_retried(status: int, error: type[MangaError]) -> None:
    gateway = Gateway(status)
    with pytest.raises(error):
        await api_of(gateway).post("c", b"frame", deadline_s=soon())
    assert len(gateway.requests) == 1


async def test_closing_a_closed_connection_does_nothing() -> None:
    gateway = Gateway(410)
    await api_of(gateway).close("c")
    assert gateway.requests == [("DELETE", "/prod/%40connections/c", b"")]


def test_the_address_has_no_default() -> None:
    with pytest.raises(SettingsError, match="MANGA_MANAGEMENT_URL is not set; expected https://"):
        management_endpoint(AddressSettings(management_url=None))
    assert management_endpoint(AddressSettings(management_url="http://127.0.0.1:8080/prod/")).path == "/prod"
