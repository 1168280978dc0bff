"""The index of runs as a page: what runs, what failed and was not looked at, and every run with a link to what it left."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from html import escape

from mangalib.jobs.runs import FAILED, OK, Runs, Summary

log = logging.getLogger(__name__)

PAGE = "index.html"
_SIGNS = {OK: "✓ ok", FAILED: "✗ failed", "running": "… running"}
_STYLE = """
html { color-scheme: light dark; background: #fff; color: #16181c; font: 15px/1.45 system-ui, sans-serif }
body { margin: 2rem auto; max-width: 76rem; padding: 0 1rem }
table { border-collapse: collapse; width: 100% } caption { text-align: left; padding: .5rem 0; font-weight: 600 }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid #8884; vertical-align: top }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
td.when, td.status { white-space: nowrap }
td a { white-space: nowrap }
.failed { color: #b03a00; font-weight: 600 } .ok { color: #00674d } .seen { opacity: .65 }
@media (prefers-color-scheme: dark) { html { background: #16181c; color: #e8e8e8 }
.failed { color: #ff9a66 } .ok { color: #4fd1a5 } a { color: #8ab4f8 } }
.headline { overflow-wrap: anywhere } .answer { font-size: 1.2rem }
tbody { content-visibility: auto }
"""


def write_page(runs: Runs) -> None:
    """Make the page anew, beside the runs."""
    try:
        runs.storage.write(PAGE, index_html(runs.index(), datetime.now(UTC)))
    except OSError as error:
        log.warning("%s could not be written: %s", runs.storage.url(PAGE), error)


def index_html(runs: list[Summary], now: datetime) -> str:
    """The page of these runs, the newest first."""
    unseen = [run for run in runs if run.unseen_failure]
    newest: dict[str, Summary] = {}
    for run in runs:
        newest.setdefault(run.notebook, run)
    failing = [run.notebook for run in newest.values() if run.status == FAILED]
    answer = (
        f"Failing now: {', '.join(sorted(failing))}." if failing else "The newest run of every notebook ended well."
    )
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'>",
        "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>Runs</title><style>{_STYLE}</style></head><body><main><h1>Runs</h1>",
        f"<p class='answer'>{escape(answer)}</p>" if runs else "<p class='answer'>Nothing has run yet.</p>",
        f"<p>{len(runs)} runs, {len(unseen)} failures that nobody has looked at. As of {now:%Y-%m-%d %H:%M} UTC.</p>",
    ]
    if unseen:
        parts.append(_table("Failed, and not looked at (mangalib runs --seen NAME)", unseen))
    parts += [
        _table("The newest run of each notebook", sorted(newest.values(), key=lambda run: run.notebook)),
        _table("All runs, the newest first", runs),
        "</main></body></html>\n",
    ]
    return "\n".join(parts)


def _table(caption: str, runs: list[Summary]) -> str:
    head = "".join(
        f"<th scope='col'>{name}</th>" for name in ("When (UTC)", "Notebook", "Status", "Result", "Took", "Files")
    )
    rows = "\n".join(map(_row, runs))
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _row(run: Summary) -> str:
    said = run.error if run.status == FAILED else run.headline
    took = f"{run.duration_s:.0f} s" if run.duration_s is not None else ""
    links = [("notebook", ".ipynb"), ("record", ".json")]
    if run.html:
        links.insert(0, ("report", ".html"))
    linked = " ".join(f"<a href='{escape(run.name)}{suffix}'>{text}</a>" for text, suffix in links)
    kind = run.status + (" seen" if run.status == FAILED and run.seen else "")
    again = f" (attempt {run.attempt})" if run.attempt > 1 else ""
    return (
        f"<tr><td class='when'>{escape(run.started_at[:16].replace('T', ' '))}</td><td>{escape(run.notebook)}</td>"
        f"<td class='status {kind}'>{_SIGNS.get(run.status, escape(run.status))}{again}</td>"
        f"<td class='headline'>{escape(said)}</td><td class='number'>{took}</td><td>{linked}</td></tr>"
    )
