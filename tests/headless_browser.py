"""A headless browser and the chat's page in it, for tests, benchmarks and screenshots."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mangalib.errors import SettingsError

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_POLL_MS = 10
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
    "--enable-precise-memory-info",
    "--js-flags=--expose-gc",
)
# Layout shifts not caused by input, and tasks over 50 ms, since the page was opened.
_OBSERVE = """
globalThis.observed = { shifts: [], longTasks: [] };
new PerformanceObserver(list => observed.shifts.push(...list.getEntries().filter(e => !e.hadRecentInput).map(e => e.value)))
  .observe({ type: "layout-shift", buffered: true });
new PerformanceObserver(list => observed.longTasks.push(...list.getEntries().map(e => e.duration)))
  .observe({ type: "longtask", buffered: true });
"""


def browser_path() -> str:
    """The path of Chromium or Chrome; raises ``SettingsError`` when neither is on the PATH."""
    path = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if path is None:
        raise SettingsError(f"no browser on the PATH; expected one of {', '.join(_NAMES)}: `make browser` installs one")
    return path


@contextmanager
def headless_browser() -> Iterator[Browser]:
    """That browser, driven by Playwright; raises like :func:`browser_path`."""
    from playwright.sync_api import sync_playwright

    path = browser_path()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


def open_chat(browser: Browser, page_url: str, *, hash_: str = "", **context: Any) -> Page:
    """The chat's page in a new profile; ``context`` holds Playwright's options (viewport, locale, ...)."""
    options: dict[str, Any] = {"viewport": {"width": 900, "height": 700}, **context}
    page = browser.new_context(**options).new_page()
    page.add_init_script(_OBSERVE)
    page.goto(page_url + hash_)
    wait_until(page, "globalThis.mangaChat !== undefined")
    return page


def ask_in(page: Page, text: str) -> None:
    """Type a question and press Enter."""
    box = page.get_by_role("textbox")
    box.fill(text)
    box.press("Enter")


def wait_until(page: Page, expression: str, *, within_s: float = 15) -> None:
    """Wait until an expression is true in the page; raises ``TimeoutError``.

    It is polled from outside: Playwright's own waiting evaluates a string in the page, which the page's policy forbids.
    """
    deadline_s = time.monotonic() + within_s
    while not page.evaluate(expression):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"not true within {within_s:g} s: {expression}")
        page.wait_for_timeout(_POLL_MS)


def wait_for_answers(page: Page, count: int, *, within_s: float = 40) -> None:
    """Wait until ``count`` answers have ended on the page, complete or not, and their timelines are complete."""
    ended = 'new Set(mangaChat.timeline.filter(r => ["done", "error", "lost"].includes(r.event)).map(r => r.request_id)).size'
    wait_until(page, f"{ended} >= {count}", within_s=within_s)


def timeline_of(page: Page) -> list[dict[str, Any]]:
    """The chat's own timeline, one row per event."""
    rows: list[dict[str, Any]] = page.evaluate("mangaChat.timeline")
    return rows


def observed_in(page: Page) -> dict[str, list[float]]:
    """The browser's measurements since the page was opened: ``shifts`` (scores) and ``longTasks`` (ms)."""
    observed: dict[str, list[float]] = page.evaluate("observed")
    return observed
