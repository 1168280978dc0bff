"""The speed benchmark: its parts work, and it writes only where it may. The figures themselves are not tested."""

from __future__ import annotations

from importlib import import_module
from itertools import count
from pathlib import Path

import pytest

from benchmarks.speed.__main__ import ITEMS, RESULTS
from benchmarks.speed.profile import ELSE, PARTS, share_by_part
from benchmarks.speed.tables import Table, quote, value_range
from benchmarks.speed.transport import Orchestrator, one_round, peer
from mangalib.local.stack import Stack

PACKAGE = Path(__file__).resolve().parents[2] / "mangalib"


@pytest.mark.parametrize("item", ITEMS)
def test_each_item_makes_tables(item: str) -> None:
    assert callable(import_module(f"benchmarks.speed.{item}").tables)


def test_a_table_stands_in_columns_with_its_notes() -> None:
    table = Table("name", "Title", ["who", "ms"], [["a longer one", "1"], ["b", "1,000"]], ["Note."])
    assert str(table).splitlines() == [
        "**Title**",
        "",
        "    who              ms",
        "    a longer one      1",
        "    b             1,000",
        "",
        "Note.",
    ]
    assert value_range([3.0, 1.0, 2.0]) == "2 (1-3)"


def test_only_the_text_between_the_marks_is_replaced(tmp_path: Path) -> None:
    document = tmp_path / "README.md"
    document.write_text("before\n<!-- written by make benchmark -->\nold\n<!-- end of what it writes -->\nafter\n")
    table = Table("name", "Title", ["who"], [["a"]], [])
    quote([table], "machine", document)
    quote([table], "machine", document)
    written = document.read_text()
    assert "old" not in written
    assert written.startswith("before\n")
    assert written.endswith("after\n")
    assert written.count("**Title**") == written.count("machine") == 1


def test_the_benchmarks_document_has_the_marks() -> None:
    text = RESULTS.with_name("README.md").read_text(encoding="utf-8")
    assert text.count("<!-- written by make benchmark -->") == text.count("<!-- end of what it writes -->") == 1


async def test_a_client_and_the_orchestrator_are_asked_in_the_same_way(stack: Stack) -> None:
    names = count()
    with peer(stack, None, "mangalib_client.py") as client:
        alone = await one_round(stack, client, names, 3, 0.05)
    async with Orchestrator.connected(stack) as orchestrator:
        complete = await one_round(stack, orchestrator, names, 3, 0.05)
    for found in (alone, complete):
        assert set(found) == {"cpu_us", "before_p50", "before_p99", "after_p50", "after_p99"}
        assert all(value >= 0 for value in found.values())


def test_samples_count_for_the_innermost_part() -> None:
    loop = "main (x.py:1);run (asyncio/runners.py:1)"
    lines = [
        f"{loop};send (mangalib/serving/outbox.py:3);sign (mangalib/aws/signing.py:9);hmac (hmac.py:1) 3",
        f"{loop};step (uvloop/loop.pyx:1) 1",
        "thread (threading.py:1);_worker (concurrent/futures/thread.py:1) 50",
    ]
    assert share_by_part(lines) == {PARTS["aws/signing.py"]: 0.75, ELSE: 0.25}


def test_the_parts_are_existing_files() -> None:
    assert {name for name in PARTS if not (PACKAGE / name).exists()} == set()
