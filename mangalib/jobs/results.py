"""What a notebook reports: its results, which go into the run's record."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

RESULTS_VARIABLE = "MANGA_RESULTS_FILE"


def record(**results: Any) -> None:
    """Add ``results`` to the record of this run; called from a notebook.

    In a notebook that is open in JupyterLab there is no record, and the results are only checked.

    Raises ``ValueError`` or ``TypeError`` unless the results can be written as JSON.
    """
    encoded = json.dumps(results, allow_nan=False)
    path = os.environ.get(RESULTS_VARIABLE)
    if path:
        file = Path(path)
        before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        file.write_text(json.dumps({**before, **json.loads(encoded)}), encoding="utf-8")
