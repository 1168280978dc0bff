"""Simulated customers keep what they had when a session fails."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from mangalib.benchmark.experiments.simulated_customers import Customers, converse
from mangalib.client import Reply
from mangalib.errors import TransportError
from mangalib.settings import load_settings

SETTINGS = load_settings()


class FailingClient:
    """Answers until the whole test has had ``answers`` of them."""

    def __init__(self, left: list[int]) -> None:
        self._left = left

    async def __aenter__(self) -> FailingClient:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        return None

    async def answer(self, text: str) -> Reply:
        if not self._left:
            raise TransportError("the connection was lost")
        self._left.pop()
        return Reply("id", text="One Piece is long.", first_token_ms=1.0, total_ms=2.0)


async def test_a_session_that_fails_ends_there_and_keeps_its_rows() -> None:
    customers = Customers(SETTINGS, seed=5)
    plans = customers.plans(6, datetime(2026, 11, 20, tzinfo=UTC), 1)
    left: list[int] = [0] * 4

    def connect(session_id: str) -> Any:
        return FailingClient(left)

    rows = await converse(connect, customers, plans, think_s=0, at_once=2)
    assert len(rows) == 4
    assert set(rows["session_id"]) <= {plan.session_id for plan in plans}
