"""Screenshots of each phase, light and dark, for people to look at: they are kept in `pictures/` beside this file."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import expect

from mangalib.local.stack import Stack
from tests.headless_browser import ask_in, wait_for_answers, wait_until
from tests.system.browser.conftest import OpenPage

PICTURES = Path(__file__).parent / "pictures"
QUESTION = "Recommend me a good fantasy manga"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_each_phase_looks_different(chat_page: OpenPage, stack: Stack, scheme: str) -> None:
    page = chat_page(color_scheme=scheme, device_scale_factor=2, viewport={"width": 860, "height": 600})
    expect(page.locator(".state")).to_have_attribute("data-state", "open")
    PICTURES.mkdir(exist_ok=True)
    answer = page.locator(".answer")

    def take(phase: str) -> bytes:
        expect(answer).to_have_attribute("data-phase", phase)
        return page.screenshot(path=PICTURES / f"{phase}_{scheme}.png", animations="disabled")

    # Each phase is held while its screenshot is taken: the look-up, the model before its first token, and mid-answer.
    stack.local("gateway", "POST", "faults", {"kind": "stall", "delay_ms": 3000, "times": 1})
    stack.local("bedrock", "POST", "faults", {"kind": "slow_first_token", "delay_ms": 2500, "times": 1})
    stack.local("bedrock", "POST", "faults", {"kind": "stall", "after_events": 60, "delay_ms": 4000, "times": 1})
    ask_in(page, QUESTION)
    pictures = [take("instant")]
    expect(page.locator(".skeleton")).to_have_count(3)
    pictures.append(take("context"))
    wait_until(page, "document.querySelectorAll('.card.title').length >= 2")
    wait_until(page, "document.querySelectorAll('canvas.rough').length === 0")
    pictures.append(take("streaming"))
    wait_for_answers(page, 1)
    page.get_by_role("button", name="Timeline").click()
    pictures.append(take("complete"))
    assert len(set(pictures)) == 4
    background = page.locator(".manga-chat").evaluate("e => getComputedStyle(e).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 29)"}[scheme]
