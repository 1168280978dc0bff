"""One client of Bedrock in a process of its own, asked in rounds by ``transport.py``; runs in the client's own environment.

Its argument says where the model is, as JSON. Then each line of standard input is a round: a JSON object of questions, and
how many seconds after the round's start each is asked. The line printed in reply says when, by the monotonic clock that all
processes of a machine share, the first text of each answer arrived, and how much processor time the round took.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import uvloop


@dataclass
class Where:
    """Where the model is, and how many are asked at once at most."""

    url: str
    ca: str
    region: str
    model: str
    at_once: int


@dataclass
class MeasuredAnswer:
    """The result of one question."""

    asked_s: float
    first_text_s: float | None = None
    texts: list[str] = field(default_factory=list)

    def add_text(self, text: str) -> None:
        """The next piece of the answer has arrived in this program."""
        if text and self.first_text_s is None:
            self.first_text_s = time.monotonic()
        self.texts.append(text)

    def add_event(self, event: dict[str, Any]) -> None:
        """The next event of Claude's stream, decoded."""
        if event["type"] == "content_block_delta":
            self.add_text(event["delta"]["text"])


Ask = Callable[[str, MeasuredAnswer], Awaitable[None]]


def body_of(question: str) -> str:
    """What every client asks the model."""
    turns = [{"role": "user", "content": question}]
    return json.dumps({"anthropic_version": "bedrock-2023-05-31", "max_tokens": 400, "messages": turns})


def serve(connected: Callable[[Where], AbstractAsyncContextManager[Ask]]) -> None:
    """Answer rounds until standard input ends. ``connected`` opens the client, and gives what asks it."""
    # Libraries print what they like; only the answers to rounds go to the real standard output.
    answers = os.dup(1)
    os.dup2(2, 1)
    uvloop.run(_serve(Where(**json.loads(sys.argv[1])), connected, answers))


async def _serve(where: Where, connected: Callable[[Where], AbstractAsyncContextManager[Ask]], answers: int) -> None:
    async with connected(where) as ask:
        os.write(answers, b"ready\n")
        while line := await asyncio.to_thread(sys.stdin.readline):
            os.write(answers, json.dumps(await _round(ask, json.loads(line))).encode() + b"\n")


async def _round(ask: Ask, plan: dict[str, float]) -> dict[str, Any]:
    # A full collection of what the library has loaded would be taken for a delay of its client.
    gc.collect()
    gc.freeze()
    started_s, cpu_s = time.monotonic(), time.process_time()
    measured = {question: MeasuredAnswer(started_s + after_s) for question, after_s in plan.items()}

    async def one(question: str) -> None:
        await asyncio.sleep(measured[question].asked_s - time.monotonic())
        await ask(question, measured[question])

    await asyncio.gather(*(one(question) for question in plan))
    return {
        "cpu_s": time.process_time() - cpu_s,
        "asked_s": {question: answer.asked_s for question, answer in measured.items()},
        "first_text_s": {question: answer.first_text_s for question, answer in measured.items()},
        "characters": {question: len("".join(answer.texts)) for question, answer in measured.items()},
    }
