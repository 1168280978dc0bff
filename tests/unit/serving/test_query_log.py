"""The query log: a sample, without what is personal, and never in the way of an answer."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import pytest

from mangalib.benchmark.load.workload import read_query_log
from mangalib.domain.intents import Intent
from mangalib.nlu.redaction import without_personal_data
from mangalib.serving.query_log import QueryLog


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Where is my order MA-10001?", "Where is my order [number]?"),
        ("Order 1234567 has not come", "Order [number] has not come"),
        ("注文番号は MA-10001 です", "注文番号は [number] です"),
        ("Write to emi.sato+shop@example.co.jp please", "Write to [email] please"),
        ("Call me at +81 90-1234-5678", "Call me at [number]"),
        ("My name is Aiko Novak and I like horror", "My name is [name] and I like horror"),
        ("私の名前は田中花子です", "私の名前は[name]です"),
        ("Emi here, and this is for SATO", "[name] here, and this is for [name]"),
        ("Do you have volume 12 of One Piece?", "Do you have volume 12 of One Piece?"),
        ("I am looking for Naruto", "I am looking for Naruto"),
        ("20世紀少年はありますか", "20世紀少年はありますか"),
    ],
)
def test_what_is_personal_is_taken_out_and_the_rest_stays(text: str, kept: str) -> None:
    assert without_personal_data(text, "Emi Sato") == kept


async def test_a_share_of_the_questions_is_written_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    log = QueryLog(path, 0.25, random.Random(1))
    task = asyncio.create_task(log.write())
    for number in range(400):
        log.offer(Intent.FAQ, f"Question {number} from me@example.com", "")
    while not path.exists():
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    task.cancel()
    found = read_query_log(path)
    assert 70 < len(found) < 130
    assert all(text.endswith("[email]") for _, text in found)
    assert path.stat().st_mode & 0o077 == 0
    assert set(json.loads(path.read_text(encoding="utf-8").splitlines()[0])) == {"at", "intent", "text"}


async def test_more_than_can_be_written_is_left_out_and_a_disk_that_fails_costs_lines_only(tmp_path: Path) -> None:
    log = QueryLog(tmp_path / "no" / "such" / "folder", 1.0, random.Random(1))
    for number in range(5000):
        log.offer(Intent.FAQ, f"Question {number}", "")
    task = asyncio.create_task(log.write())
    await asyncio.sleep(0.1)
    assert not task.done()
    task.cancel()
