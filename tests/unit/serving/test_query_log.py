"""The query log: a sample of questions, redacted, and never in the way of an answer."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from mangalib.benchmark.load.workload import read_query_log
from mangalib.domain.intents import Intent
from mangalib.nlu.redaction import without_personal_data
from mangalib.serving.query_log import QueryLog


@asynccontextmanager
async def writing(log: QueryLog) -> AsyncIterator[None]:
    task = asyncio.create_task(log.write())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


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
def test_personal_data_is_redacted_and_the_rest_stays(text: str, kept: str) -> None:
    assert without_personal_data(text, "Emi Sato") == kept


async def test_a_share_of_the_questions_is_written_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    log = QueryLog(path, 0.25, random.Random(1))
    for number in range(400):
        log.offer(Intent.FAQ, f"Question {number} from me@example.com", "")
    async with writing(log):
        await until(lambda: path.exists() and path.read_text(encoding="utf-8").endswith("\n"))
    found = read_query_log(path)
    assert 70 < len(found) < 130
    assert all(text.endswith("[email]") for _, text in found)
    assert path.stat().st_mode & 0o077 == 0
    assert set(json.loads(path.read_text(encoding="utf-8").splitlines()[0])) == {"at", "intent", "text"}


async def test_questions_beyond_the_buffer_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    log = QueryLog(path, 1.0, random.Random(1))
    for number in range(5000):
        log.offer(Intent.FAQ, f"Question {number}", "")
    async with writing(log):
        await until(lambda: path.exists() and path.read_text(encoding="utf-8").endswith("\n"))
    assert len(read_query_log(path)) == 1000


@pytest.mark.parametrize("text", ["Where is it?", "a lone surrogate \ud800"])
async def test_after_a_failed_write_the_next_questions_are_written(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "missing"
    path = folder / "queries.jsonl"
    log = QueryLog(path, 1.0, random.Random(1))
    if not text.isascii():
        folder.mkdir()
    log.offer(Intent.FAQ, text, "")
    async with writing(log):
        await until(lambda: "1 questions not logged" in caplog.text)
        folder.mkdir(exist_ok=True)
        log.offer(Intent.FAQ, "And now?", "")
        await until(lambda: path.exists() and "And now?" in path.read_text(encoding="utf-8"))
