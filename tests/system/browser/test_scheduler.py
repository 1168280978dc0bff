"""The Jupyter Scheduler extension in a real JupyterLab: its form accepts parameters, and the job runs with them."""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from mangalib.settings import load_settings
from tests.headless_browser import wait_until
from tests.system.browser.lab import LAB_TOKEN, running_jupyterlab
from tests.system.browser.test_pictures import PICTURES

NOTEBOOK = "13_warming.ipynb"


@pytest.fixture(scope="module")
def jupyterlab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("scheduler")
    shutil.copy(load_settings().notebooks_dir / NOTEBOOK, folder / NOTEBOOK)
    with running_jupyterlab(folder) as address:
        yield address


def jobs(address: str) -> list[dict[str, object]]:
    with urllib.request.urlopen(f"{address}/scheduler/jobs?token={LAB_TOKEN}", timeout=10) as answer:
        listed: list[dict[str, object]] = json.load(answer)["jobs"]
    return listed


def test_a_scheduled_notebook_runs_with_the_parameters_of_the_form(
    browser: Browser, jupyterlab: str, tmp_path: Path
) -> None:
    page = browser.new_context(viewport={"width": 1200, "height": 1100}).new_page()
    page.goto(f"{jupyterlab}/lab/tree/{NOTEBOOK}?token={LAB_TOKEN}")
    expect(page.locator(".jp-Notebook .jp-CodeCell").first).to_be_visible()
    wait_until(page, "globalThis.jupyterapp?.shell.currentWidget?.context?.isReady === true", within_s=60)
    # The form is for the notebook that was clicked last.
    page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt").first.click()
    page.evaluate("jupyterapp.commands.execute('scheduling:create-from-notebook')")
    form = page.locator(".jp-notebook-jobs-panel")
    expect(form.get_by_label("Job name")).to_have_value(NOTEBOOK.removesuffix(".ipynb"))
    for number, (name, value) in enumerate((("count", "3"), ("language", '"en"'))):
        named = form.locator(f"[name=parameter-{number}-name]")
        # A click is lost while the form validates the previous field.
        while not named.count():
            form.get_by_title("Add new parameter").click()
        named.fill(name)
        form.locator(f"[name=parameter-{number}-value]").fill(value)
        form.locator(f"[name=parameter-{number}-value]").press("Tab")
    PICTURES.mkdir(exist_ok=True)
    form.screenshot(path=PICTURES / "scheduler_form.png")
    form.get_by_role("button", name="Create", exact=True).click()

    deadline_s = time.monotonic() + 120
    while not (listed := jobs(jupyterlab)) or listed[0]["status"] not in {"COMPLETED", "FAILED"}:
        assert time.monotonic() < deadline_s, listed
        time.sleep(0.2)
    (job,) = listed
    assert job["status"] == "COMPLETED", job["status_message"]
    assert job["parameters"] == {"count": "3", "language": '"en"'}
