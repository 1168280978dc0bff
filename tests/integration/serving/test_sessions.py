"""Sessions that the orchestrator ends itself."""

from __future__ import annotations

import pytest
from websockets.exceptions import ConnectionClosed

from mangalib.local.stack import Stack
from mangalib.precompute.service import Precompute
from tests.conftest import Connect, orchestrator_here


async def test_a_session_that_is_closed_for_being_idle_is_closed_for_precomputation_too(
    stack: Stack, plain: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[tuple[str, str]] = []
    monkeypatch.setattr(Precompute, "on_session_closed", lambda self, *scope: closed.append(scope))
    limits = {"session_idle_after_s": 0.3, "idle_timeout_s": 0.6}
    async with orchestrator_here(stack, monkeypatch, **limits), plain("customer-012") as client:
        with pytest.raises(ConnectionClosed):
            while True:
                await client.next("session")
    assert [customer for customer, _ in closed] == ["customer-012"]
