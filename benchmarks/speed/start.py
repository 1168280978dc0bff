"""Item 5: how long until something can be used: an orchestrator, the package, a notebook.

The orchestrator is a process of its own beside a running stack, from its start to the moment at which it answers, with its pool
warm and its prompts loaded. A notebook counts from the start of its kernel to the end of the first cell after its parameters.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from tqdm.auto import tqdm

from benchmarks.speed.tables import Table, value_range
from mangalib.local import Stack, running_stack

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
TIMES = 7
_IMPORT = "import time; before = time.perf_counter(); import mangalib; print(time.perf_counter() - before)"


def orchestrator_s(stack: Stack, number: int) -> float:
    """Seconds until one more orchestrator answers."""
    started_s = time.monotonic()
    process, _ = stack.start("orchestrator", stack.folder / f"another-{number}.json")
    took_s = time.monotonic() - started_s
    process.kill()
    process.wait()
    assert process.stdin is not None
    process.stdin.close()
    return took_s


def import_s() -> float:
    """Seconds that ``import mangalib`` takes in a new interpreter."""
    return float(subprocess.run([sys.executable, "-c", _IMPORT], check=True, capture_output=True, text=True).stdout)


def first_cell_s(path: Path) -> float:
    """Seconds from a kernel's start to the end of the first cell after the parameters."""
    notebook = nbformat.read(path, as_version=4)
    code = [index for index, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    client = NotebookClient(notebook, resources={"metadata": {"path": str(path.parent)}}, timeout=60)
    started_s = time.monotonic()
    with client.setup_kernel():
        for index in code[:2]:
            client.execute_cell(notebook.cells[index], index)
        return time.monotonic() - started_s


def tables() -> list[Table]:
    """The table."""
    paths = sorted(NOTEBOOKS.glob("*.ipynb"))
    with tqdm(total=2 * TIMES + len(paths), desc="starts", leave=False) as bar:

        def counted(seconds: float) -> float:
            bar.update()
            return seconds

        with running_stack() as stack:
            orchestrator = [counted(orchestrator_s(stack, number)) for number in range(TIMES)]
        package = [counted(import_s()) for _ in range(TIMES)]
        notebooks = {path.stem: counted(first_cell_s(path)) for path in paths}
    slowest = max(notebooks, key=lambda name: notebooks[name])
    rows = [
        ["orchestrator ready, pool warm, prompts loaded", value_range(orchestrator, 2), "2"],
        ["import mangalib", value_range(package, 4), "0.3"],
        [f"a notebook's first cell, {len(notebooks)} notebooks", value_range(list(notebooks.values()), 2), "3"],
    ]
    notes = [f"Medians of {TIMES}, with the least and the most. The slowest notebook is {slowest}."]
    return [Table("start", "5. Start", ["what", "seconds", "target"], rows, notes)]
