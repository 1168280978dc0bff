"""Tables of results: printed, and written as text and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median


@dataclass
class Table:
    """One table. ``rows`` are of strings, as many as ``columns``; ``notes`` say how to read it and what falls short."""

    name: str
    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str]

    def __str__(self) -> str:
        widths = [max(len(cell) for cell in column) for column in zip(self.columns, *self.rows, strict=True)]
        lines = [f"**{self.title}**", ""]
        for row in [self.columns, *self.rows]:
            first, *others = row
            cells = [first.ljust(widths[0])] + [
                cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)
            ]
            lines.append("    " + "  ".join(cells).rstrip())
        return "\n".join([*lines, "", *self.notes, ""])


def value_range(values: list[float], digits: int = 0) -> str:
    """The median of repetitions, and between what they lay."""
    low, high = min(values), max(values)
    return f"{median(values):,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f})"


def keep(tables: list[Table], machine: str, folder: Path) -> None:
    """Write ``NAME.json`` for each table."""
    folder.mkdir(exist_ok=True)
    for table in tables:
        found = {"machine": machine, **asdict(table)}
        (folder / f"{table.name}.json").write_text(
            json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def quote(tables: list[Table], machine: str, document: Path) -> None:
    """Write them all into a document, between its two marks."""
    head, begin, rest = document.read_text(encoding="utf-8").partition("<!-- written by make benchmark -->\n")
    _, end, tail = rest.partition("<!-- end of what it writes -->\n")
    text = "\n".join([f"{machine}\n", *map(str, tables)])
    document.write_text(f"{head}{begin}\n{text}\n{end}{tail}", encoding="utf-8")
