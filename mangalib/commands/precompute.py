"""``mangalib hit-rate``, ``mangalib transitions`` and ``mangalib cache-accuracy``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mangalib.settings import load_settings

if TYPE_CHECKING:
    from mangalib.precompute.sessionlog import SessionLog

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("hit-rate")
@click.option("--sessions", required=True, type=_FILE, help="A session log: Parquet, CSV or JSON Lines.")
@click.option("--json", "as_json", is_flag=True, help="Print the scores as JSON.")
def hit_rate(sessions: Path, as_json: bool) -> None:
    """How often the next intent is foretold: learned on the earlier sessions of a log, scored on the last fifth."""
    import msgspec

    from mangalib.precompute.hitrate import Score
    from mangalib.precompute.hitrate import hit_rate as scored
    from mangalib.precompute.sessionlog import SessionLog

    settings = load_settings()
    log = SessionLog(sessions, settings.session_events_max)
    score = scored(log, order=settings.transition_order, half_life_days=settings.transition_half_life_days)
    _say_repairs(log)
    if as_json:
        click.echo(msgspec.json.encode({**msgspec.structs.asdict(score), "repairs": log.repairs}).decode())
        return
    click.echo(f"{score.transitions} transitions, calibration error {score.calibration_error:.3f}")
    click.echo(f"{'after':28}{'n':>8}{'top 1':>8}{'top 2':>8}{'top 4':>8}")
    whole = Score(score.top1, score.top2, score.top4, score.transitions)
    for name, row in [("all", whole), *sorted(score.by_trigger.items())]:
        click.echo(f"{name:28}{row.transitions:8}{row.top1:8.1%}{row.top2:8.1%}{row.top4:8.1%}")


@click.command()
@click.option("--sessions", required=True, type=_FILE, help="A session log: Parquet, CSV or JSON Lines.")
@click.option("--model", type=_FILE, help="The model's file; by default MANGA_TRANSITION_MODEL.")
def transitions(sessions: Path, model: Path | None) -> None:
    """Learn the transition model from a log; it replaces the file's only if it foretells the newest sessions no worse."""
    from mangalib.precompute.rollout import learn_and_compare
    from mangalib.precompute.sessionlog import SessionLog

    settings = load_settings()
    log = SessionLog(sessions, settings.session_events_max)
    outcome = learn_and_compare(log, model or settings.transition_model, settings)
    _say_repairs(log)
    click.echo(outcome.sentence)


@click.command("cache-accuracy")
@click.option("--questions", required=True, type=_FILE, help="CSV with part (stored or asked), text and answer.")
@click.option("--json", "as_json", is_flag=True, help="Print the rates as JSON.")
def cache_accuracy(questions: Path, as_json: bool) -> None:
    """How often the semantic cache answers, and how often wrongly, beside a cosine threshold tuned to the same bound."""
    import msgspec

    from mangalib.precompute.accuracy import measure, read_questions

    stored, asked = read_questions(questions)
    found = measure(stored, asked, load_settings())
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
        return
    click.echo(
        f"{'':20}{'hits':>9}{'false':>9}   {found.asked} asked of {found.stored} stored, bound {found.bound:.1%}"
    )
    click.echo(f"{'whole look-up':20}{found.hit_rate:9.1%}{found.false_hit_rate:9.2%}")
    click.echo(f"{'cosine alone':20}{found.cosine.hit_rate:9.1%}{found.cosine.false_hit_rate:9.2%}")


def _say_repairs(log: SessionLog) -> None:
    if text := log.repairs.as_text():
        click.secho(f"repaired: {text}", fg="yellow", err=True)
