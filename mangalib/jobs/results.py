"""Result records: what a notebook found, as JSON beside the executed notebook."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

RESULTS_VARIABLE = "MANGA_RESULTS_FILE"


def record(**results: Any) -> None:
    """Add to the ``results`` of this run's record; called from a notebook. Values must be JSON.

    Outside a headless run there is no record to add to, and only the values are checked.
    """
    encoded = json.dumps(results, allow_nan=False)
    path = os.environ.get(RESULTS_VARIABLE)
    if path:
        file = Path(path)
        before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        file.write_text(json.dumps({**before, **json.loads(encoded)}), encoding="utf-8")
