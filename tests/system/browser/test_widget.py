"""The widget in a real JupyterLab: the same element, its times back in Python, and no token in what is saved."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Browser, Page, expect

from mangalib.chat import Chat
from mangalib.chat.timeline import COLUMNS
from mangalib.errors import SettingsError
from mangalib.local.stack import Stack
from mangalib.settings import environment
from tests.headless_browser import wait_until
from tests.system.browser.lab import LAB_TOKEN, running_jupyterlab

RAN = re.compile(r"\[\d+\]:")
HOSTILE = '<img src="x" onerror="globalThis.hacked = 1"><script>globalThis.hacked = 1</script>'
CELLS = (
    "import os\nfrom mangalib.chat import Chat\n"
    "chat = Chat(os.environ['CHAT_URL'], os.environ['CHAT_TOKEN'], heading='In the notebook')\nchat",
    "table = chat.timeline\n"
    "print('EVENTS', ' '.join(table['event']))\n"
    "print('PAINTED', bool((table['painted_ms'].dropna() >= table['received_ms'][table['painted_ms'].notna()]).all()))",
    "chat.token = os.environ['FRESH_TOKEN']",
)


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path = tmp_path_factory.mktemp("lab") / "chat.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path


@pytest.fixture(scope="module")
def jupyterlab(notebook: Path, stack: Stack) -> Iterator[str]:
    chat = {
        "CHAT_URL": stack.addresses["websocket_url"],
        "CHAT_TOKEN": stack.token_for("late", lifetime_s=-60),
        "FRESH_TOKEN": stack.token_for("analyst"),
    }
    with running_jupyterlab(notebook.parent, **chat) as address:
        yield address


def run_cell(page: Page, number: int) -> None:
    page.locator(".jp-Notebook .jp-CodeCell").nth(number).locator(".jp-InputPrompt").click()
    page.evaluate("jupyterapp.commands.execute('notebook:run-cell')")
    expect(page.locator(".jp-Notebook .jp-CodeCell").nth(number).locator(".jp-InputPrompt")).to_have_text(RAN)


def output(page: Page, number: int, pattern: str) -> str:
    shown = page.locator(".jp-Notebook .jp-CodeCell").nth(number).locator(".jp-OutputArea-output")
    expect(shown.first).to_contain_text(re.compile(pattern))
    return shown.first.inner_text()


def answer_on_the_command_line(stack: Stack, question: str) -> str:
    """The same question's answer from the command line."""
    command = [sys.executable, "-m", "mangalib.cli", "ask", "--json", question]
    connection = environment({"websocket_url": stack.addresses["websocket_url"], "token": stack.addresses["token"]})
    result = subprocess.run(command, env=connection, capture_output=True, text=True, timeout=60, check=True)
    text: str = json.loads(result.stdout)["text"]
    return text


def test_the_widget_in_jupyterlab(browser: Browser, jupyterlab: str, notebook: Path, stack: Stack) -> None:
    page = browser.new_context(viewport={"width": 1200, "height": 900}).new_page()
    page.goto(f"{jupyterlab}/lab/tree/{notebook.name}?token={LAB_TOKEN}")
    expect(page.locator(".jp-Notebook .jp-CodeCell")).to_have_count(len(CELLS))
    # A cell run before its kernel has started is silently ignored.
    kernel = "globalThis.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status"
    wait_until(page, f"{kernel} === 'idle'", within_s=60)

    run_cell(page, 0)
    widget = page.locator(".manga-chat")
    # An expired token is reported, and replaced from Python.
    expect(widget.locator(".state")).to_have_attribute("data-state", "expired")
    run_cell(page, 2)
    expect(widget.locator(".state")).to_have_attribute("data-state", "open")

    box = widget.get_by_role("textbox")
    box.fill("Compare Naruto and <b>Bleach</b>")
    box.press("Enter")
    expect(widget.locator(".answer")).to_have_attribute("data-phase", "complete")
    assert "<b>Bleach</b>" in widget.locator(".question").inner_text()
    expect(widget.locator(".card .buy")).to_have_count(2)
    # By keyboard, where JupyterLab has shortcuts of its own.
    widget.get_by_role("button", name="Tell me more: Naruto").press("Enter")
    expect(widget.locator(".question")).to_have_count(2)
    expect(widget.locator(".answer").last).to_have_attribute("data-phase", "complete")

    # The gateway drops the connection mid-answer; the text is still complete.
    question = "Compare One Piece and Bleach"
    stack.local("bedrock", "POST", "faults", {"kind": "stall", "after_events": 30, "delay_ms": 700, "times": 1})
    box.fill(question)
    box.press("Enter")
    wait_until(page, "document.querySelectorAll('.prose')[2]?.innerText.length > 30")
    stack.local("gateway", "DELETE", "connections")
    expect(widget.locator(".answer").last).to_have_attribute("data-phase", "complete")
    assert widget.locator(".prose").last.inner_text() == answer_on_the_command_line(stack, question)

    # Hostile, long and Japanese at once.
    text = "はい。" + "とても長い回答です。" * 60 + HOSTILE
    stack.local("bedrock", "PUT", "answer", {"text": text})
    try:
        box.fill(f"教えて {HOSTILE}")
        box.press("Enter")
        expect(widget.locator(".answer")).to_have_count(4)
        expect(widget.locator(".answer").last).to_have_attribute("data-phase", "complete")
    finally:
        stack.local("bedrock", "DELETE", "answer")
    assert widget.locator(".prose").last.inner_text() == text
    assert HOSTILE in widget.locator(".question").last.inner_text()
    assert page.evaluate("globalThis.hacked") is None

    for theme, expected in (("JupyterLab Dark", "rgb(22, 24, 29)"), ("JupyterLab Light", "rgb(255, 255, 255)")):
        page.evaluate("theme => jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
        expect(widget).to_have_css("background-color", expected)

    run_cell(page, 1)
    shown = output(page, 1, "PAINTED")
    events = shown.split("\n")[0].split()[1:]
    assert events.count("sent") == events.count("done") == 4
    assert events.count("card") >= 4 and events.count("first_token") == 4
    assert "PAINTED True" in shown
    page.evaluate("jupyterapp.commands.execute('docmanager:save')")
    wait_until(page, "!document.querySelector('.jp-mod-dirty')")
    page.context.close()
    saved = notebook.read_text(encoding="utf-8")
    assert "EVENTS" in saved and "eyJ" not in saved, "no token is saved in the notebook"


def test_the_widgets_state_holds_no_token_and_its_table_is_typed() -> None:
    widget = Chat("ws://127.0.0.1:1/prod", "eyJ-secret")
    assert "eyJ-secret" not in json.dumps(widget.get_state())
    assert list(widget.timeline.columns) == list(COLUMNS)
    assert str(widget.timeline["painted_ms"].dtype) == "float64"


@pytest.mark.parametrize(
    ("url", "token"), [("http://127.0.0.1:1/", "a token"), ("127.0.0.1", "a token"), ("ws://127.0.0.1:1/", "")]
)
def test_a_wrong_url_or_an_empty_token_is_refused(url: str, token: str) -> None:
    with pytest.raises(SettingsError, match=r"url=|token is empty"):
        Chat(url, token)
