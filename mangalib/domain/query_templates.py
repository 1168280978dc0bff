"""Phrasings of questions by intent and language, with slots for titles, from ``data/query_templates.csv``."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from mangalib.domain.intents import Intent
from mangalib.errors import DataError


@dataclass(frozen=True)
class Phrasing:
    """One line of the file; ``split`` is ``train`` or ``held_out``."""

    intent: Intent
    language: str
    split: str
    template: str


def load_phrasings(path: Path) -> list[Phrasing]:
    """Read ``query_templates.csv``; raises ``DataError`` naming the file and the problem."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return [Phrasing(Intent(r["intent"]), r["language"], r["split"], r["template"]) for r in rows]
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{path}: {error}; expected columns intent, language, split, template") from error
