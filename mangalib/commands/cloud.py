"""``mangalib cloud``: checks before the laboratory runs on AWS."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import click

from mangalib.settings import load_settings


@click.group()
def cloud() -> None:
    """The laboratory on AWS."""


@cloud.command("check")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def check_command(as_json: bool) -> None:
    """List what the account and the settings lack; exit 1 if anything is missing. Changes nothing."""
    from mangalib.cloud import check_account

    findings = []
    for finding in check_account(load_settings()):
        findings.append(finding)
        if not as_json:
            click.echo(f"{'✓' if finding.ok else '✗'} {finding.what:44} {finding.said}")
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], ensure_ascii=False))
    if not all(finding.ok for finding in findings):
        sys.exit(1)
