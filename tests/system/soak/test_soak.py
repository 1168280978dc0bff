"""Two minutes of the soak; ``make soak`` runs the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.soak.soak import CUSTOMERS, Figures, soak

# At rest a keep-alive may be in progress, and a pooled connection may be being replaced. Worker threads start when they are first
# needed: the customers' data has 16, three of which read side by side for one answer.
MAY_GROW = {"tasks": 3, "descriptors": 6, "sockets": 6, "threads": 12, "memory_mb": 20, "kept_open": 3 * CUSTOMERS}


def problems(figures: Figures) -> list[str]:
    """A sentence for each figure out of bounds."""
    found = [
        f"{name} grew by {figures.grown(name):.0f}, expected at most {most}"
        for name, most in MAY_GROW.items()
        if figures.grown(name) > most
    ]
    if figures.endings["unanswered"]:
        found.append(f"{figures.endings['unanswered']} questions were never answered")
    return found


@pytest.mark.timeout(400)
async def test_nothing_leaks_and_every_question_is_answered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = await soak(2, tmp_path, quiet=True)
    with capsys.disabled():
        print(f"\n{figures.report()}")
    assert figures.endings["whole"] > 100
    assert sum(figures.faults.values()) > 50
    assert problems(figures) == []
