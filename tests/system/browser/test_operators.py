"""The operator's pages in a real browser: the dashboard served by Voilà, and the index of runs."""

from __future__ import annotations

import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from mangalib.jobs.index_page import index_html
from mangalib.jobs.records import FAILED, OK, RunSummary
from mangalib.settings import load_settings
from tests.system.browser.lab import wait_for
from tests.system.browser.test_pictures import PICTURES


def test_the_dashboard_is_served_by_voila_without_its_code(browser: Browser, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    dashboard = str(load_settings().notebooks_dir / "12_ops_dashboard.ipynb")
    command = [sys.executable, "-m", "voila", dashboard, "--no-browser", f"--port={port}", "--Voila.ip=127.0.0.1"]
    with (tmp_path / "voila.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for(f"http://127.0.0.1:{port}/voila/static/voila.js", server, tmp_path / "voila.log")
        page = browser.new_context(viewport={"width": 1200, "height": 1000}).new_page()
        page.goto(f"http://127.0.0.1:{port}/", timeout=120_000)
        expect(page.get_by_text("No. SEV-1: comparison").first).to_be_visible()
        expect(page.locator(".js-plotly-plot .main-svg").nth(3)).to_be_attached()
        expect(page.get_by_text("questions_a_day = 200_000")).to_have_count(0)
        PICTURES.mkdir(exist_ok=True)
        page.screenshot(path=PICTURES / "dashboard.png")
    finally:
        server.terminate()
        server.wait(20)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_index_of_runs_is_accessible_and_runs_no_script(browser: Browser, tmp_path: Path, scheme: str) -> None:
    summaries = [
        RunSummary(
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
    (tmp_path / "index.html").write_text(
        index_html(summaries, datetime(2026, 11, 20, 12, tzinfo=UTC)), encoding="utf-8"
    )
    # The page's policy admits no script, not even that of the accessibility check.
    context = browser.new_context(viewport={"width": 1100, "height": 800}, color_scheme=scheme, bypass_csp=True)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto((tmp_path / "index.html").as_uri())
    expect(page.get_by_text("1 unacknowledged failures")).to_be_visible()
    assert page.evaluate("globalThis.hacked") is None
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()
    PICTURES.mkdir(exist_ok=True)
    page.screenshot(path=PICTURES / f"runs_{scheme}.png")
