"""A Dask cluster: one that is running elsewhere, or a single worker on this machine."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mangalib.errors import SettingsError
from mangalib.extras import missing_extra

if TYPE_CHECKING:
    from distributed import Client

_CONNECT_TIMEOUT_S = 10
# By default Dask's dashboard listens on all interfaces.
ON_LOOPBACK = "127.0.0.1:0"


@contextmanager
def cluster(scheduler: str | None) -> Iterator[Client]:
    """A client of the cluster at ``tcp://host:port``; with ``None``, of one worker process that runs for the block.

    Raises ``SettingsError`` when the scheduler does not respond or has no worker, or Dask is not installed.
    """
    try:
        from distributed import Client, LocalCluster
    except ModuleNotFoundError as error:
        raise missing_extra("a Dask cluster", str(error.name), "cluster") from error
    if scheduler is None:
        with (
            LocalCluster(
                n_workers=1,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address=ON_LOOPBACK,
                silence_logs=logging.ERROR,
            ) as local,
            Client(local) as client,
        ):
            yield client
        return
    try:
        client = Client(scheduler, timeout=_CONNECT_TIMEOUT_S)
    except (OSError, ValueError, ImportError) as error:
        raise SettingsError(f"--scheduler {scheduler}: no response from a Dask scheduler: {error}") from None
    with client:
        try:
            client.wait_for_workers(1, timeout=_CONNECT_TIMEOUT_S)
        except TimeoutError:
            raise SettingsError(
                f"--scheduler {scheduler}: it has no workers; start one with `dask worker {scheduler}`"
            ) from None
        yield client
