"""API Gateway's management API (``POST /@connections/{id}``): how frames reach a client."""

from __future__ import annotations

import asyncio
import time

from mangalib.aws.connection_pool import WarmPool
from mangalib.aws.http1 import Endpoint, HttpConnection
from mangalib.aws.signing import Signer, path_segment
from mangalib.errors import BusyError, ConnectionGoneError, MangaError, SettingsError, SlowClientError, TransportError
from mangalib.resilience import CircuitBreaker, RetryBudget, backoff_pauses
from mangalib.settings import AddressSettings, PoolSettings, TransportSettings

SIGNING_NAME = "execute-api"
_BACKOFF_MAX_S = 1.0


class ManagementApi:
    """Posts frames and closes connections.

    Callers keep one post in flight per connection, because two concurrent ones may arrive in either order. A post that
    fails in a way that may be temporary is retried with back-off; a frame's ``seq`` lets the client drop duplicates.
    """

    def __init__(self, pool: WarmPool, signer: Signer, endpoint: Endpoint, settings: TransportSettings) -> None:
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
            The client is no longer connected.
        SlowClientError
            The client's buffer stayed full until the deadline.
        TransportError
            The gateway could not be reached, or failed, on all ``send_attempts``, or on as many as the retry budget that
            all posts share allowed.
        MangaError
            The gateway refused the frame for good: not authorised, or too large.
        """
        failures = 0
        self._retries.deposit()
        for pause_s in backoff_pauses(self._settings.send_backoff_ms / 1000, _BACKOFF_MAX_S, jitter=(0.5, 1.0)):
            try:
                await self._request("POST", connection_id, frame)
                return
            except SlowClientError:
                if time.monotonic() + pause_s > deadline_s:
                    raise
            except (TransportError, BusyError) as error:
                failures += 1
                last = failures >= self._settings.send_attempts or time.monotonic() + pause_s > deadline_s
                if last or not self._retries.withdraw():
                    raise TransportError(f"frame not delivered; attempts: {failures}, last error: {error}") from error
            await asyncio.sleep(pause_s)

    async def close(self, connection_id: str) -> None:
        """Close the client's connection; does nothing if it is closed already."""
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
                raise TransportError(f"the management API returned {status}: {answer[:200]!r}", answered=True)
        if status == 410:
            raise ConnectionGoneError(f"connection {connection_id} is gone")
        if status == 429:
            raise SlowClientError(f"connection {connection_id} has a full buffer")
        if status >= 300:
            raise MangaError(f"the management API refused the request with {status}: {answer[:200]!r}")


def management_endpoint(settings: AddressSettings) -> Endpoint:
    """The management API's address; it has no default because it contains the API's id. Raises ``SettingsError``."""
    if not settings.management_url:
        raise SettingsError(
            "MANGA_MANAGEMENT_URL is not set; expected https://{api}.execute-api.{region}.amazonaws.com/{stage}"
        )
    return Endpoint.from_url(settings.management_url)


def management_pool(endpoint: Endpoint, settings: PoolSettings) -> WarmPool:
    """The warm pool of connections to the gateway; idle ones that it closes are replaced."""
    return WarmPool(
        lambda: HttpConnection.open(endpoint, timeout_s=settings.connect_timeout_s),
        size=settings.management_pool_size,
        max_size=settings.management_pool_max_size,
        acquire_timeout_s=settings.acquire_timeout_s,
        shrink_after_s=settings.pool_shrink_after_s,
        keep_alive_s=settings.keep_alive_s,
    )
