"""When the chat shows what, measured in a headless browser.

    .venv/bin/python benchmarks/on_screen.py [--queries 50] [--json FILE]

The local stack with the specification's model of latency, without pre-computation, one question after another:

simple path       greetings, answered by the small model without look-ups
retrieval path    recommendations and titles, with cards
instant           from sending to the typing indicator's paint
first token       from sending to its paint; p50 and p95
frames to paint   animation frames from a text's arrival to its paint, maximum over all texts
layout shift      the browser's own score (Jankovic and others, 2020), summed over one answer, maximum
paint, ours       our time of the first token's paint minus the browser's (Element Timing): median, 5th and 95th percentiles

Then a flood: 500 chunks a second for 10 s, into our chat and into a page that only appends each chunk to one text node.
Long tasks are those over 50 ms; busy is the main thread's share of time at work; memory is the growth that remains after
the conversation was cleared and garbage collected.

There is no pass or fail. Browser, stand-ins and orchestrator share this machine's processors.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Browser, CDPSession
from tqdm.auto import tqdm

from mangalib.local import Stack, running_stack
from tests.flooding_service import flooding
from tests.headless_browser import headless_browser, observed_in, open_chat, timeline_of, wait_for_answers, wait_until

GREETINGS = ("Hello", "Hi there", "Good evening", "Hello again", "Good morning")
RETRIEVALS = ("Recommend me a good fantasy manga", "Tell me about One Piece", "Compare Naruto and Bleach")
PER_SECOND, SECONDS = 500, 10
# Marks the first text of each answer for the browser's Element Timing before it can be painted.
OWN_CLOCK = """
globalThis.renders = [];
new PerformanceObserver(list => renders.push(...list.getEntries().map(e => e.renderTime))).observe({type: "element"});
new MutationObserver(() => document.querySelectorAll(".prose > :first-child:not([elementtiming])")
  .forEach(e => e.setAttribute("elementtiming", "first-token"))).observe(document, {childList: true, subtree: true});
"""
APPENDING = """url => {
  const text = document.body.appendChild(document.createElement("pre")).appendChild(document.createTextNode(""));
  text.parentNode.style.whiteSpace = "pre-wrap";
  globalThis.mangaChat = {timeline: []};
  const socket = new WebSocket(url);
  socket.onopen = () => socket.send(JSON.stringify({request_id: "peer"}));
  socket.onmessage = ({data}) => {
    const frame = JSON.parse(data);
    if (frame.type === "chunk") { text.appendData(frame.text); scrollTo(0, document.body.scrollHeight); }
    else mangaChat.timeline.push({event: frame.type, request_id: "peer"});
  };
}"""


def measure_path(browser: Browser, stack: Stack, questions: list[str], name: str) -> dict[str, Any]:
    """Ask the questions one after another in one conversation; returns one row of the table."""
    page = open_chat(browser, stack.addresses["page_url"])
    wait_until(page, "document.querySelector('.state').dataset.state === 'open'")
    page.evaluate(OWN_CLOCK)
    instants, firsts, shifts, apart, frames = [], [], [], [], []
    for number, question in enumerate(tqdm(questions, desc=name, leave=False), start=1):
        shifted = sum(observed_in(page)["shifts"])
        before = len(timeline_of(page))
        sent = page.evaluate("text => { const at = performance.now(); mangaChat.ask(text); return at; }", question)
        wait_for_answers(page, number)
        rows = {row["event"]: row for row in timeline_of(page)[before:]}
        instants.append(rows["instant"]["painted_ms"])
        firsts.append(rows["first_token"]["painted_ms"])
        frames += [rows["first_token"]["animation_frames"], rows["slowest_text"]["animation_frames"]]
        shifts.append(sum(observed_in(page)["shifts"]) - shifted)
        apart += [sent + firsts[-1] - at for at in page.evaluate("renders.splice(0)")[:1]]
    page.context.close()
    low, middle, high = np.percentile(apart, [5, 50, 95])
    return {
        "path": name,
        "queries": len(questions),
        "instant_max_ms": max(instants),
        "first_token_p50_ms": float(np.percentile(firsts, 50)),
        "first_token_p95_ms": float(np.percentile(firsts, 95)),
        "frames_to_paint_max": max(frames),
        "layout_shift_max": max(shifts),
        "ours_less_browsers_ms": [float(low), float(middle), float(high)],
    }


def measure_flood(browser: Browser, stack: Stack, url: str, *, ours: bool) -> dict[str, Any]:
    """Send the flood into one page; returns one row of the table."""
    page = open_chat(browser, stack.addresses["page_url"], bypass_csp=True)
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    if ours:
        page.evaluate("async url => mangaChat.connect({...await (await fetch('/connect.json')).json(), url})", url)
        page.get_by_role("button", name="New conversation").click()
    else:
        page.evaluate("document.body.replaceChildren()")
    page.evaluate("observed.longTasks.length = 0")
    before = _metrics(session)
    if ours:
        page.evaluate("mangaChat.ask('Flood')")
    else:
        page.evaluate(APPENDING, url)
    wait_for_answers(page, 1, within_s=4 * SECONDS)
    after, observed = _metrics(session, collect=False), observed_in(page)
    slowest = [row for row in timeline_of(page) if row["event"] == "slowest_text"]
    if ours:
        page.get_by_role("button", name="New conversation").click()
    else:
        page.evaluate("document.body.replaceChildren()")
    cleared = _metrics(session)
    page.context.close()
    return {
        "page": "ours" if ours else "appending",
        "long_tasks": len(observed["longTasks"]),
        "busy_share": (after["TaskDuration"] - before["TaskDuration"]) / (after["Timestamp"] - before["Timestamp"]),
        "frames_to_paint_max": slowest[0]["animation_frames"] if slowest else None,
        "heap_left_kb": (cleared["JSHeapUsedSize"] - before["JSHeapUsedSize"]) / 1024,
        "nodes_left": cleared["Nodes"] - before["Nodes"],
    }


def _metrics(session: CDPSession, *, collect: bool = True) -> dict[str, float]:
    if collect:
        session.send("HeapProfiler.collectGarbage")
    return {metric["name"]: metric["value"] for metric in session.send("Performance.getMetrics")["metrics"]}


def print_report(paths: list[dict[str, Any]], floods: list[dict[str, Any]], version: str) -> None:
    print(f"{platform.platform()}, {version}")
    print(
        "path       queries  instant, most  first token p50    p95  frames to paint  layout shift  paint, ours (most)"
    )
    for row in paths:
        low, middle, high = row["ours_less_browsers_ms"]
        print(
            f"{row['path']:10} {row['queries']:7} {row['instant_max_ms']:11.0f} ms {row['first_token_p50_ms']:13.0f} ms "
            f"{row['first_token_p95_ms']:3.0f} ms {row['frames_to_paint_max']:16} {row['layout_shift_max']:13.4f} "
            f"{middle:+7.1f} ({low:+.1f} to {high:+.1f})"
        )
    print(f"\n{PER_SECOND} chunks a second for {SECONDS} s")
    print("page       long tasks   busy  frames to paint    heap left  nodes left")
    for row in floods:
        frames = "" if row["frames_to_paint_max"] is None else row["frames_to_paint_max"]
        print(
            f"{row['page']:10} {row['long_tasks']:10} {row['busy_share']:6.0%} {frames:>16} "
            f"{row['heap_left_kb']:9.0f} KB {row['nodes_left']:11.0f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with running_stack(answers_ahead=False) as stack, headless_browser() as browser:
        simple = [GREETINGS[number % len(GREETINGS)] for number in range(options.queries)]
        retrieval = [RETRIEVALS[number % len(RETRIEVALS)] for number in range(max(3, options.queries // 4))]
        paths = [
            measure_path(browser, stack, simple, "simple"),
            measure_path(browser, stack, retrieval, "retrieval"),
        ]
        with flooding(per_second=PER_SECOND, chunks=PER_SECOND * SECONDS, words_per_line=400) as url:
            floods = [measure_flood(browser, stack, url, ours=ours) for ours in (True, False)]
        version = f"Chromium {browser.version}"
    print_report(paths, floods, version)
    if options.json is not None:
        report = {"machine": platform.platform(), "browser": version, "paths": paths, "floods": floods}
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
