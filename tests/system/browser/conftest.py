"""A real headless Chromium for the tests of this folder, and pages of the local stack's chat in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from mangalib.local.stack import Stack
from tests.headless_browser import headless_browser, open_chat

# Longer than anything takes, a kernel's start on a busy machine too: what never comes fails a test, what is slow does not.
expect.set_options(timeout=60_000)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with headless_browser() as running:
        yield running


OpenPage = Callable[..., Page]


@pytest.fixture
def chat_page(browser: Browser, stack: Stack) -> Iterator[OpenPage]:
    """Opens the page; a script that threw in it, or that the page's policy stopped, fails the test."""
    problems: list[str] = []
    pages: list[Page] = []

    def opened(hash_: str = "", **context: object) -> Page:
        page = open_chat(browser, stack.addresses["page_url"], hash_=hash_, **context)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if "Refused to" in message.text else None)
        pages.append(page)
        return page

    yield opened
    stack.local("bedrock", "DELETE", "answer")
    for page in pages:
        page.context.close()
    assert problems == []
