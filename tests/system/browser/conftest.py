"""A headless Chromium for the tests in this folder, and the chat's page in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from mangalib.local.stack import Stack
from tests.headless_browser import headless_browser, open_chat

# Long enough for a kernel's start on a busy machine: slowness must not fail a test.
expect.set_options(timeout=60_000)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with headless_browser() as running:
        yield running


OpenPage = Callable[..., Page]


@pytest.fixture
def chat_page(browser: Browser, stack: Stack) -> Iterator[OpenPage]:
    """Open the page; a script error or a violation of the page's policy fails the test."""
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
