"""A Dask cluster: the one whose scheduler is named, or one worker on this machine. The code that uses it is the same."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from distributed import Client, LocalCluster

from mangalib.errors import SettingsError

_CONNECT_WITHIN_S = 10
# Without an address, Dask's HTTP listens on all interfaces.
ON_LOOPBACK = "127.0.0.1:0"


@contextmanager
def cluster(scheduler: str | None) -> Iterator[Client]:
    """A client of the cluster at ``tcp://host:port``; ``None`` starts one worker process for the length of the block.

    Raises ``SettingsError`` when no scheduler answers there, or it has no worker.
    """
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
        client = Client(scheduler, timeout=_CONNECT_WITHIN_S)
    except (OSError, ValueError, ImportError) as error:
        raise SettingsError(f"--scheduler {scheduler}: no Dask scheduler answers there: {error}") from None
    with client:
        try:
            client.wait_for_workers(1, timeout=_CONNECT_WITHIN_S)
        except TimeoutError:
            raise SettingsError(
                f"--scheduler {scheduler}: it has no worker; `dask worker {scheduler}` starts one"
            ) from None
        yield client
