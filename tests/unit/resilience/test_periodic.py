"""Periodic refresh: whatever exception a refresh raises, it is logged and the refresh is tried again."""

from __future__ import annotations

import asyncio

import pytest
from botocore.exceptions import EndpointConnectionError

from mangalib.errors import ReleaseError
from mangalib.resilience import refresh_periodically, try_refresh

ERRORS = [
    KeyError("version"),
    ValueError("not a number"),
    TypeError("'NoneType' object is not subscriptable"),
    EndpointConnectionError(endpoint_url="http://dynamodb"),
    ReleaseError("table manga-releases: gone"),
    TimeoutError(),
]


class Source:
    """Raises each of ``errors`` once, then succeeds; sets ``succeeded`` when it has done so ``wanted`` times."""

    def __init__(self, errors: list[Exception], wanted: int) -> None:
        self.errors = list(errors)
        self.calls = 0
        self.left = wanted
        self.succeeded = asyncio.Event()

    async def refresh(self) -> None:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        self.left -= 1
        if self.left == 0:
            self.succeeded.set()


async def test_a_refresh_that_raises_anything_is_logged_and_retried(caplog: pytest.LogCaptureFixture) -> None:
    source = Source(ERRORS, wanted=2)
    task = asyncio.create_task(refresh_periodically("reading prompts", 0, source.refresh))
    async with asyncio.timeout(10):
        await source.succeeded.wait()
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert source.calls == len(ERRORS) + 2
    logged = [record.getMessage() for record in caplog.records]
    assert [f"reading prompts failed: {type(error).__name__}: {error}" for error in ERRORS] == logged


async def test_the_first_refresh_comes_after_one_interval() -> None:
    source = Source([], wanted=1)
    task = asyncio.create_task(refresh_periodically("never due here", 3600, source.refresh))
    await asyncio.sleep(0)
    assert source.calls == 0
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_swallowed_cancellation_ends_it_after_that_refresh() -> None:
    started = asyncio.Event()

    async def swallows() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return  # as redis-py may while it disconnects

    task = asyncio.create_task(refresh_periodically("following Redis", 0, swallows))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(10):
            await task


async def test_trying_once_returns_whether_it_succeeded() -> None:
    source = Source([KeyError("version")], wanted=1)
    assert not await try_refresh("reading prompts", source.refresh)
    assert await try_refresh("reading prompts", source.refresh)
