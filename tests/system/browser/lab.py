"""A JupyterLab server for a test, with default settings."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LAB_TOKEN = "only-for-this-test"
START_WITHIN_S = 60


@contextmanager
def running_jupyterlab(folder: Path, **more: str) -> Iterator[str]:
    """Yield its address; it serves ``folder``, and its kernels have ``more`` in their environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = folder / "home"
    environment = {
        **os.environ,
        "HOME": str(home),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "IPYTHONDIR": str(home / "ipython"),
        **more,
    }
    options = [
        f"--ServerApp.port={port}",
        f"--IdentityProvider.token={LAB_TOKEN}",
        f"--ServerApp.root_dir={folder}",
        "--LabApp.expose_app_in_browser=True",
        "--LabApp.news_url=",
        "--ServerApp.port_retries=0",
        "--allow-root",
        "--no-browser",
    ]
    with (folder / "lab.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options], env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(f"{address}/api?token={LAB_TOKEN}", server, folder / "lab.log")
        yield address
    finally:
        server.terminate()
        server.wait(20)


def wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server responds; fails with its log when it exits or takes too long."""
    deadline_s = time.monotonic() + START_WITHIN_S
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            assert server.poll() is None and time.monotonic() < deadline_s, log.read_text(errors="replace")[-2000:]
            time.sleep(0.1)
