"""Small notebooks for tests of jobs."""

from __future__ import annotations

from pathlib import Path

import nbformat

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
RECORD = "from mangalib.jobs.results import record\nrecord(headline=f'number {number}', number=number)"


def write_notebook(path: Path, *cells: str, parameters: str = "number = 1") -> Path:
    code = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    code += [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=code, metadata=KERNEL), path)
    return path
