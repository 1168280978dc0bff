"""What an operator looks at, in a real browser: the dashboard as a page by Voilà, and the index of runs."""

from __future__ import annotations

import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from mangalib.jobs.index_page import page_of
from mangalib.jobs.parameters import NOTEBOOKS
from mangalib.jobs.runs import FAILED, OK, Summary
from tests.system.browser.lab import wait_for
from tests.system.browser.test_pictures import PICTURES


def test_the_dashboard_is_a_page_by_voila(browser: Browser, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    dashboard = str(NOTEBOOKS / "12_ops_dashboard.ipynb")
    command = [sys.executable, "-m", "voila", dashboard, "--no-browser", f"--port={port}", "--Voila.ip=127.0.0.1"]
    with (tmp_path / "voila.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for(f"http://127.0.0.1:{port}/voila/static/voila.js", server, tmp_path / "voila.log")
        page = browser.new_context(viewport={"width": 1200, "height": 1000}).new_page()
        page.goto(f"http://127.0.0.1:{port}/", timeout=120_000)
        expect(page.get_by_text("No. SEV-1: comparison").first).to_be_visible()
        expect(page.locator(".js-plotly-plot .main-svg").nth(3)).to_be_attached()
        # The code is not on the page.
        expect(page.get_by_text("questions_a_day = 200_000")).to_have_count(0)
        PICTURES.mkdir(exist_ok=True)
        page.screenshot(path=PICTURES / "dashboard.png")
    finally:
        server.terminate()
        server.wait(20)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_index_of_runs_is_for_everybody(browser: Browser, tmp_path: Path, scheme: str) -> None:
    lines = [
        Summary(
            f"04_benchmark_run/2026-11-20/{hour:02d}0000-abc",
            "04_benchmark_run",
            "benchmark",
            f"2026-11-20T{hour:02d}:00:00+00:00",
            FAILED if hour == 3 else OK,
            "answered 400, failed 0",
            "cell 7: MangaError: <script>globalThis.hacked = 1</script>" if hour == 3 else "",
            41.0 + hour,
            True,
            False,
        )
        for hour in range(9, 0, -1)
    ]
    (tmp_path / "index.html").write_text(page_of(lines, datetime(2026, 11, 20, 12, tzinfo=UTC)), encoding="utf-8")
    # The page's own policy lets no script in, not even the one that checks it here.
    context = browser.new_context(viewport={"width": 1100, "height": 800}, color_scheme=scheme, bypass_csp=True)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto((tmp_path / "index.html").as_uri())
    expect(page.get_by_text("1 failures that nobody has looked at")).to_be_visible()
    assert page.evaluate("globalThis.hacked") is None
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    PICTURES.mkdir(exist_ok=True)
    page.screenshot(path=PICTURES / f"runs_{scheme}.png")
