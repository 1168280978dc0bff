"""The way back to the client: frames through API Gateway's management API (``POST /@connections/{id}``)."""

from __future__ import annotations

import asyncio
import random
import time

from mangalib.aws.connection_pool import WarmPool
from mangalib.aws.http1 import Endpoint, HttpConnection
from mangalib.aws.signing import Signer, path_segment
from mangalib.errors import BusyError, ConnectionGoneError, MangaError, SettingsError, SlowClientError, TransportError
from mangalib.resilience import CircuitBreaker, RetryBudget
from mangalib.settings import Settings

SIGNING_NAME = "execute-api"


class ManagementApi:
    """Posts frames and closes connections.

    Callers keep one post in flight per connection: two may arrive in either order. A post that fails in a way that may
    pass is repeated with back-off; a frame's ``seq`` lets the client drop one that came twice.
    """

    def __init__(self, pool: WarmPool, signer: Signer, endpoint: Endpoint, settings: Settings) -> None:
        self._pool = pool
        self._signer = signer
        self._endpoint = endpoint
        self._settings = settings
        self._breaker = CircuitBreaker.from_settings("the management API", settings)
        self._retries = RetryBudget(settings.retry_share, settings.retry_burst)

    async def post(self, connection_id: str, frame: bytes, *, deadline_s: float) -> None:
        """Send one frame; ``deadline_s`` (monotonic) bounds all attempts.

        Raises
        ------
        ConnectionGoneError
            The client is not there any more.
        SlowClientError
            Its buffer stayed full until the deadline.
        TransportError
            The gateway could not be reached, or failed, on each of ``send_attempts``, or on as many as the retry
            allowance of all posts together left.
        MangaError
            It refused the frame for good: not allowed, or too large.
        """
        failures = 0
        self._retries.deposit()
        backoff_s = self._settings.send_backoff_ms / 1000
        while True:
            try:
                return await self._request("POST", connection_id, frame)
            except SlowClientError:
                if time.monotonic() + backoff_s > deadline_s:
                    raise
            except (TransportError, BusyError) as error:
                failures += 1
                over = failures >= self._settings.send_attempts or time.monotonic() + backoff_s > deadline_s
                if over or not self._retries.withdraw():
                    raise TransportError(f"frame not delivered after {failures} attempts: {error}") from error
            await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))
            backoff_s = min(2 * backoff_s, 1.0)

    async def close(self, connection_id: str) -> None:
        """Close the client's connection; one that is gone already is as good as closed."""
        try:
            await self._request("DELETE", connection_id, b"")
        except ConnectionGoneError:
            return

    async def _request(self, method: str, connection_id: str, body: bytes) -> None:
        target = f"{self._endpoint.path}/%40connections/{path_segment(connection_id)}"
        signed = self._signer.sign(SIGNING_NAME, self._endpoint, method, target, body, {})
        timeout_s = self._settings.send_timeout_s
        with self._breaker.watch(lambda error: isinstance(error, TransportError)):
            async with self._pool.lease() as connection:
                status = await connection.send(method, target, signed, body, timeout_s=timeout_s)
                answer = await connection.read_all(timeout_s=timeout_s)
            if status >= 500:
                raise TransportError(f"the management API answered {status}: {answer[:200]!r}", answered=True)
        if status == 410:
            raise ConnectionGoneError(f"connection {connection_id} is gone")
        if status == 429:
            raise SlowClientError(f"connection {connection_id} takes no more frames for now")
        if status >= 300:
            raise MangaError(f"the management API refused a frame with {status}: {answer[:200]!r}")


def management_endpoint(settings: Settings) -> Endpoint:
    """Where the management API answers; there is no default, since the API's id is part of it."""
    if not settings.management_url:
        raise SettingsError(
            "MANGA_MANAGEMENT_URL is not set; expected https://{api}.execute-api.{region}.amazonaws.com/{stage}"
        )
    return Endpoint.from_url(settings.management_url)


def management_pool(endpoint: Endpoint, settings: Settings) -> WarmPool:
    """The warm pool towards the gateway; idle connections that it closes are replaced."""
    return WarmPool(
        lambda: HttpConnection.open(endpoint, timeout_s=settings.connect_timeout_s),
        size=settings.management_pool_size,
        max_size=settings.management_pool_max_size,
        acquire_timeout_s=settings.acquire_timeout_s,
        shrink_after_s=settings.pool_shrink_after_s,
        keep_alive_s=settings.keep_alive_s,
    )
