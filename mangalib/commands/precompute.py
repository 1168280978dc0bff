"""``mangalib hit-rate``, ``transitions``, ``warm``, ``catalogue-changed``, ``cache-learn`` and ``cache-accuracy``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from mangalib.errors import SettingsError
from mangalib.settings import AddressSettings, Settings, TrainingSettings, load_settings

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from mangalib.precompute.prediction import SessionLog

_FILE = click.Path(path_type=Path, dir_okay=False)
Result = TypeVar("Result")


@click.command("hit-rate")
@click.option("--sessions", required=True, type=_FILE, help="A session log: Parquet, CSV or JSON Lines.")
@click.option("--json", "as_json", is_flag=True, help="Print the scores as JSON.")
def hit_rate_command(sessions: Path, as_json: bool) -> None:
    """How often the next intent is predicted: trained on the earlier sessions of a log, scored on the last fifth."""
    import msgspec

    from mangalib.precompute.prediction import SessionLog, TopKAccuracy, hit_rate

    settings = load_settings()
    log = SessionLog(sessions, settings.session_events_max)
    score = hit_rate(log, order=settings.transition_order, half_life_days=settings.transition_half_life_days)
    _print_repairs(log)
    if as_json:
        click.echo(msgspec.json.encode({**msgspec.structs.asdict(score), "repairs": log.repairs}).decode())
        return
    click.echo(f"{score.transitions} transitions, calibration error {score.calibration_error:.3f}")
    click.echo(f"{'after':28}{'n':>8}{'top 1':>8}{'top 2':>8}{'top 4':>8}")
    overall = TopKAccuracy(score.top1, score.top2, score.top4, score.transitions)
    for name, row in [("all", overall), *sorted(score.by_trigger.items())]:
        click.echo(f"{name:28}{row.transitions:8}{row.top1:8.1%}{row.top2:8.1%}{row.top4:8.1%}")


@click.command("transitions")
@click.option(
    "--sessions", required=True, metavar="URL", help="A session log: Parquet, CSV or JSON Lines; or a folder of logs."
)
@click.option("--model", type=_FILE, help="The model file; by default MANGA_TRANSITION_MODEL.")
@click.option("--scheduler", metavar="tcp://HOST:PORT", help="The Dask cluster to use instead of this machine.")
def transitions_command(sessions: str, model: Path | None, scheduler: str | None) -> None:
    """Train the transition model on a log; it replaces the model file only if it predicts the newest sessions no worse.

    With a folder or s3://bucket/prefix, all logs in it are read as one, file by file; that model is written without a
    comparison, so it needs a file of its own (--model).
    """
    from mangalib.precompute.prediction import SessionLog, train_and_compare

    settings = load_settings()
    if "://" in sessions or Path(sessions).is_dir():
        _train_on_folder(sessions, model, scheduler, settings)
        return
    if scheduler is not None:
        raise SettingsError(f"--scheduler: {sessions} is one file; expected a folder or s3://bucket/prefix")
    log = SessionLog(Path(sessions), settings.session_events_max)
    comparison = train_and_compare(log, model or settings.transition_model, settings)
    _print_repairs(log)
    click.echo(comparison.summary)


def _train_on_folder(url: str, model: Path | None, scheduler: str | None, settings: TrainingSettings) -> None:
    from mangalib.cluster import cluster

    if model is None:
        raise SettingsError("--model: missing; expected the file to write, since a model of many files is not compared")
    with cluster(scheduler) as client:
        from mangalib.precompute.prediction import train_partitioned

        trained = train_partitioned(client, url, settings, progress=True)
    trained.save(model)
    click.echo(f"{trained.transitions} transitions of {len(trained.intents)} intents: {model}")


@click.command("warm")
@click.option("--sessions", required=True, type=_FILE, help="A session log: Parquet, CSV or JSON Lines.")
@click.option(
    "--program", required=True, type=click.Choice(["popular", "segment", "time_of_day"]), help="How titles are chosen."
)
@click.option("--count", default=20, type=click.IntRange(min=1), help="Titles (for segment: of each segment).")
@click.option("--hour", type=click.IntRange(0, 23), help="For time_of_day: the hour in Japan; by default the next one.")
@click.option("--language", default="en", type=click.Choice(["en", "ja"]), help="The language of the questions.")
def warm_command(sessions: Path, program: str, count: int, hour: int | None, language: str) -> None:
    """Request answers that a log says will be asked for; the orchestrators generate them within the program's budget."""
    from datetime import datetime, timedelta
    from zoneinfo import ZoneInfo

    from mangalib.precompute.prediction import read_table
    from mangalib.precompute.warming import Program, plans, request_warming

    settings = _settings_with_redis()
    log = read_table(sessions)
    next_hour = (datetime.now(ZoneInfo("Asia/Tokyo")) + timedelta(hours=1)).hour
    questions = {
        Program.POPULAR: lambda: plans.popular(log, count, language),
        Program.SEGMENT: lambda: plans.for_segments(log, count, language),
        Program.TIME_OF_DAY: lambda: plans.before_hour(log, next_hour if hour is None else hour, count, language),
    }[Program(program)]()
    _with_redis(settings, lambda redis: request_warming(redis, questions, program))
    click.echo(f"{len(questions)} answers requested for {program}")


@click.command("catalogue-changed")
@click.option("--titles", required=True, type=_FILE, help="The changed titles, as rows of catalogue.csv.")
def catalogue_changed_command(titles: Path) -> None:
    """Publish changed titles: answers that mention them are dropped at once and generated again in the background."""
    from mangalib.domain import Catalogue
    from mangalib.precompute.warming import catalogue_changed

    settings = _settings_with_redis()
    items = Catalogue.load(titles).items
    dropped = _with_redis(settings, lambda redis: catalogue_changed(redis, items))
    click.echo(f"{len(items)} titles changed, {len(dropped)} answers dropped and requested again")


@click.command("cache-learn")
def cache_learn_command() -> None:
    """Learn anew, from the questions in the semantic cache, how much evidence is enough; orchestrators reload the result."""
    from mangalib.domain import Catalogue
    from mangalib.nlu import MeaningReader
    from mangalib.precompute import SharedAnswers

    settings = _settings_with_redis()

    async def learn(redis: Redis) -> int:
        shared = SharedAnswers(redis, MeaningReader(Catalogue.load(settings.data_dir / "catalogue.csv")), settings)
        await shared.load()
        await shared.learn()
        return len(shared)

    click.echo(f"learned from {_with_redis(settings, learn)} questions")


@click.command("cache-accuracy")
@click.option("--questions", required=True, type=_FILE, help="CSV with part (stored or asked), text and answer.")
@click.option("--json", "as_json", is_flag=True, help="Print the rates as JSON.")
def cache_accuracy_command(questions: Path, as_json: bool) -> None:
    """How often the semantic cache answers, and how often wrongly, beside a cosine threshold tuned to the same bound."""
    import msgspec

    from mangalib.precompute.semantic_cache import measure_accuracy, read_labelled_questions

    stored, asked = read_labelled_questions(questions)
    found = measure_accuracy(stored, asked, load_settings())
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
        return
    click.echo(
        f"{'':20}{'hits':>9}{'false':>9}   {found.asked} asked of {found.stored} stored, bound {found.bound:.1%}"
    )
    click.echo(f"{'whole look-up':20}{found.hit_rate:9.1%}{found.false_hit_rate:9.2%}")
    click.echo(f"{'cosine alone':20}{found.cosine.hit_rate:9.1%}{found.cosine.false_hit_rate:9.2%}")


def _settings_with_redis() -> Settings:
    settings = load_settings()
    if settings.redis_url is None:
        raise SettingsError("MANGA_REDIS_URL is not set; expected the orchestrators' Redis (locally: --stack FILE)")
    return settings


def _with_redis(settings: AddressSettings, use: Callable[[Redis], Awaitable[Result]]) -> Result:
    """Run ``use`` with a connection to the orchestrators' Redis, which is closed afterwards."""
    from redis.asyncio import Redis
    from redis.exceptions import RedisError

    async def connected() -> Result:
        redis = Redis.from_url(settings.redis_url or "")
        try:
            return await use(redis)
        finally:
            await redis.aclose()

    try:
        return asyncio.run(connected())
    except RedisError as error:
        raise SettingsError(f"MANGA_REDIS_URL: {error}; expected the orchestrators' Redis") from None


def _print_repairs(log: SessionLog) -> None:
    if text := log.repairs.as_text():
        click.secho(f"repaired: {text}", fg="yellow", err=True)
