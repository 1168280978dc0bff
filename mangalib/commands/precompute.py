"""``mangalib hit-rate``, ``transitions``, ``warm``, ``catalogue-changed``, ``cache-learn`` and ``cache-accuracy``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mangalib.errors import SettingsError
from mangalib.settings import Settings, load_settings

if TYPE_CHECKING:
    from mangalib.precompute.prediction import SessionLog

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("hit-rate")
@click.option("--sessions", required=True, type=_FILE, help="A session log: Parquet, CSV or JSON Lines.")
@click.option("--json", "as_json", is_flag=True, help="Print the scores as JSON.")
def hit_rate(sessions: Path, as_json: bool) -> None:
    """How often the next intent is foretold: learned on the earlier sessions of a log, scored on the last fifth."""
    import msgspec

    from mangalib.precompute.prediction import Score, SessionLog
    from mangalib.precompute.prediction import hit_rate as scored

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
@click.option(
    "--sessions", required=True, metavar="URL", help="A session log: Parquet, CSV or JSON Lines; or see below."
)
@click.option("--model", type=_FILE, help="The model's file; by default MANGA_TRANSITION_MODEL.")
@click.option("--scheduler", metavar="tcp://HOST:PORT", help="The Dask cluster that counts, instead of this machine.")
def transitions(sessions: str, model: Path | None, scheduler: str | None) -> None:
    """Learn the transition model from a log; it replaces the file's only if it foretells the newest sessions no worse.

    With a folder or s3://bucket/prefix, all logs in it are one, counted file by file; that model is written without being
    compared, and must be a file of its own (--model).
    """
    from mangalib.precompute.prediction import SessionLog, learn_and_compare

    settings = load_settings()
    if "://" in sessions or Path(sessions).is_dir():
        _partitioned(sessions, model, scheduler, settings)
        return
    if scheduler is not None:
        raise SettingsError(f"--scheduler: {sessions} is one file; expected a folder or s3://bucket/prefix")
    log = SessionLog(Path(sessions), settings.session_events_max)
    outcome = learn_and_compare(log, model or settings.transition_model, settings)
    _say_repairs(log)
    click.echo(outcome.sentence)


def _partitioned(url: str, model: Path | None, scheduler: str | None, settings: Settings) -> None:
    from mangalib.cluster import cluster
    from mangalib.precompute.prediction import learn_partitioned

    if model is None:
        raise SettingsError("--model: expected the file to write, as the model of many files is not compared first")
    with cluster(scheduler) as client:
        learned = learn_partitioned(client, url, settings, progress=True)
    learned.save(model)
    click.echo(f"{learned.transitions} transitions of {len(learned.intents)} intents: {model}")


@click.command()
@click.option("--sessions", required=True, type=_FILE, help="A session log: Parquet, CSV or JSON Lines.")
@click.option(
    "--program", required=True, type=click.Choice(["popular", "segment", "time_of_day"]), help="What to go by."
)
@click.option("--count", default=20, type=click.IntRange(min=1), help="Titles (of each segment, for segment).")
@click.option("--hour", type=click.IntRange(0, 23), help="For time_of_day: the Japanese hour; by default the next one.")
@click.option("--language", default="en", type=click.Choice(["en", "ja"]), help="Of the questions.")
def warm(sessions: Path, program: str, count: int, hour: int | None, language: str) -> None:
    """Have answers made that a log says will be asked for; the orchestrators make them within the programme's budget."""
    import asyncio
    from datetime import datetime, timedelta
    from zoneinfo import ZoneInfo

    from redis.asyncio import Redis

    from mangalib.precompute.prediction import read_table
    from mangalib.precompute.warming import order_warming
    from mangalib.precompute.warming import plans as warming

    settings = _reaching_redis()
    log = read_table(sessions)
    next_hour = (datetime.now(ZoneInfo("Asia/Tokyo")) + timedelta(hours=1)).hour
    needs = {
        warming.POPULAR: lambda: warming.popular(log, count, language),
        warming.SEGMENT: lambda: warming.for_segments(log, count, language),
        warming.TIME_OF_DAY: lambda: warming.before_hour(log, next_hour if hour is None else hour, count, language),
    }[program]()

    async def order() -> None:
        redis = Redis.from_url(settings.redis_url or "")
        await order_warming(redis, needs, program)
        await redis.aclose()

    asyncio.run(order())
    click.echo(f"{len(needs)} answers ordered for {program}")


@click.command("catalogue-changed")
@click.option("--titles", required=True, type=_FILE, help="The changed titles, as rows of catalogue.csv.")
def catalogue_changed(titles: Path) -> None:
    """Say that titles have changed: answers that mention them end at once, and are made again in the background."""
    import asyncio

    from redis.asyncio import Redis

    from mangalib.domain import Catalogue
    from mangalib.precompute.warming import catalogue_changed as changed

    settings = _reaching_redis()
    items = Catalogue.load(titles).items

    async def tell() -> list[str]:
        redis = Redis.from_url(settings.redis_url or "")
        try:
            return await changed(redis, items)
        finally:
            await redis.aclose()

    needs = asyncio.run(tell())
    click.echo(f"{len(items)} titles changed, {len(needs)} answers ended and ordered anew")


@click.command("cache-learn")
def cache_learn() -> None:
    """Learn anew from the questions that the semantic cache holds how much evidence is enough; orchestrators take it over."""
    import asyncio

    from redis.asyncio import Redis

    from mangalib.domain import Catalogue
    from mangalib.nlu import MeaningReader
    from mangalib.precompute import SharedAnswers

    settings = _reaching_redis()

    async def learn() -> int:
        redis = Redis.from_url(settings.redis_url or "")
        try:
            shared = SharedAnswers(redis, MeaningReader(Catalogue.load(settings.data_dir / "catalogue.csv")), settings)
            await shared.load()
            await shared.learn()
            return len(shared)
        finally:
            await redis.aclose()

    click.echo(f"learned from {asyncio.run(learn())} questions")


@click.command("cache-accuracy")
@click.option("--questions", required=True, type=_FILE, help="CSV with part (stored or asked), text and answer.")
@click.option("--json", "as_json", is_flag=True, help="Print the rates as JSON.")
def cache_accuracy(questions: Path, as_json: bool) -> None:
    """How often the semantic cache answers, and how often wrongly, beside a cosine threshold tuned to the same bound."""
    import msgspec

    from mangalib.precompute.semantic_cache import measure, read_questions

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


def _reaching_redis() -> Settings:
    settings = load_settings()
    if settings.redis_url is None:
        raise SettingsError("MANGA_REDIS_URL is not set; expected the orchestrators' Redis (locally: --stack FILE)")
    return settings


def _say_repairs(log: SessionLog) -> None:
    if text := log.repairs.as_text():
        click.secho(f"repaired: {text}", fg="yellow", err=True)
