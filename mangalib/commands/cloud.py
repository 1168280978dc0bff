"""``mangalib cloud``: before anything runs on AWS."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import click

from mangalib.settings import load_settings


@click.group()
def cloud() -> None:
    """The laboratory on AWS."""


@cloud.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON list.")
def check(as_json: bool) -> None:
    """Say what is missing in the account and the settings; exit 1 if anything is. Changes nothing."""
    from mangalib.cloud import check_account as checked

    found = []
    for finding in checked(load_settings()):
        found.append(finding)
        if not as_json:
            click.echo(f"{'✓' if finding.ok else '✗'} {finding.what:44} {finding.said}")
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in found], ensure_ascii=False))
    if not all(finding.ok for finding in found):
        sys.exit(1)
