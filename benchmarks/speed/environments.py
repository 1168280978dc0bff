"""Virtual environments of the alternatives, one each, created on first use and again whenever their list has changed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PEERS = Path(__file__).parent / "peers"
FOLDER = Path(__file__).resolve().parents[2] / ".venv-peers"


def python_of(name: str) -> Path:
    """The interpreter of ``peers/NAME.txt``'s environment."""
    wanted, folder = PEERS / f"{name}.txt", FOLDER / name
    installed = folder / "made-from.txt"
    if not installed.exists() or installed.read_text() != wanted.read_text():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
        subprocess.run([*pip, "-r", str(wanted)], check=True)
        installed.write_text(wanted.read_text())
    return folder / "bin" / "python"
