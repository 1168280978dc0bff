"""Parts that need no stack: settings, prompts, fan-out, routing, warm-up cost, replay keys."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter

import pytest

from mangalib.aws.adaptive_rate import AdaptiveRate
from mangalib.domain.catalogue import Catalogue
from mangalib.domain.intents import ROUTES, Intent
from mangalib.domain.query_templates import load_phrasings
from mangalib.errors import DataError, SettingsError
from mangalib.nlu.classifier import IntentClassifier
from mangalib.resilience.circuit_breaker import CircuitBreaker
from mangalib.serving.fan_out import Branch, fan_out
from mangalib.serving.model_warmup import tiers
from mangalib.serving.prompts import BUILT_IN_PROMPT, PromptStore
from mangalib.settings import Settings, environment, load_settings

# Settings


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("MANGA_POOL_SIZE", "0", "greater than or equal to 1"),
        ("MANGA_POOL_SIZE", "five", "valid integer"),
        ("MANGA_TARGET", "moon", "'local' or 'aws'"),
        ("MANGA_KEEP_ALIVE_S", "-1", "greater than 0"),
        ("MANGA_EMBEDDING_DIMENSIONS", "7", "256, 512 or 1024"),
    ],
)
def test_a_wrong_setting_names_variable_value_and_what_is_allowed(
    monkeypatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as wrong:
        load_settings()
    assert name in str(wrong.value)
    assert value in str(wrong.value)
    assert says in str(wrong.value)


def test_settings_come_from_the_environment_then_a_dotenv_file(monkeypatch, tmp_path) -> None:
    (tmp_path / ".env").write_text("MANGA_POOL_SIZE=7\nMANGA_KEEP_ALIVE_S=9\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MANGA_KEEP_ALIVE_S", "11")
    settings = load_settings()
    assert (settings.pool_size, settings.keep_alive_s) == (7, 11)


def test_a_secret_is_never_shown(monkeypatch) -> None:
    monkeypatch.setenv("MANGA_TOKEN", "very-secret")
    assert "very-secret" not in repr(load_settings())


def test_every_duration_and_size_says_its_unit() -> None:
    units = ("_ms", "_s", "_bytes", "_usd", "_tokens", "_mtok", "_chars", "_h", "_days")
    # What is counted, or has no unit.
    counted = {
        "_sigma",
        "_cycle",
        "_min",
        "_size",
        "_attempts",
        "_connections",
        "_second",
        "_per_s",
        "_answers",
        "_top",
    }
    counted |= {"_seed", "_port", "_turns", "_dimensions", "per_intent", "_share", "_exponent", "alpha"}
    counted |= {
        "_sev1",
        "_sev2",
        "_sev3",
        "_order",
        "_rate",
        "_max",
        "_titles",
        "_candidates",
        "_neighbours",
        "_questions",
        "keep_runs",
        "_hour_jst",
        "redis_connections",
        "_answers",
        "_failures",
        "_burst",
        "_quantile",
    }
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            assert name.endswith(units) or any(name.endswith(end) for end in counted), name


def test_an_unknown_setting_for_a_child_is_refused() -> None:
    with pytest.raises(SettingsError, match="pool_sise"):
        environment({"pool_sise": 3})


# Prompts


class Pages:
    """A table of many pages; counts how often it is read."""

    def __init__(self, items: list[dict[str, object]]) -> None:
        self.items, self.reads, self.broken = items, 0, False

    def scan(self, TableName: str, ExclusiveStartKey: int = 0) -> dict[str, object]:  # noqa: N803 - boto3's names
        from botocore.exceptions import EndpointConnectionError

        self.reads += 1
        if self.broken:
            raise EndpointConnectionError(endpoint_url="http://dynamodb")
        page = {"Items": self.items[ExclusiveStartKey : ExclusiveStartKey + 2]}
        if ExclusiveStartKey + 2 < len(self.items):
            page["LastEvaluatedKey"] = ExclusiveStartKey + 2
        return page


def prompt(intent: str, version: int, active: bool = True) -> dict[str, object]:
    return {"intent": intent, "version": version, "prompt_text": f"{intent} {version}", "active": active}


async def test_prompts_fall_back_from_version_to_intent_to_default_to_built_in() -> None:
    table = Pages([prompt("faq", 1), prompt("faq", 2), prompt("faq", 3, active=False), prompt("default", 1)])
    prompts = PromptStore(table, "prompts")
    assert prompts.lookup(Intent.FAQ) == BUILT_IN_PROMPT
    assert await prompts.refresh()
    reads = table.reads
    assert reads == 2, "all pages, and only these"
    assert prompts.lookup(Intent.FAQ, 1) == "faq 1"
    assert prompts.lookup(Intent.FAQ) == "faq 2"
    assert prompts.lookup(Intent.FAQ, 3) == "faq 2", "not active"
    assert prompts.lookup(Intent.GREETING) == "default 1"
    assert table.reads == reads, "a lookup does no I/O"


async def test_a_failed_refresh_keeps_the_last_good_set_and_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    table = Pages([prompt("faq", 1)])
    prompts = PromptStore(table, "prompts")
    await prompts.refresh()
    table.broken = True
    assert not await prompts.refresh()
    assert prompts.lookup(Intent.FAQ) == "faq 1"
    assert "last good set" in caplog.text
    table.broken, table.items = False, [{"intent": "faq"}]
    assert not await prompts.refresh(), "a broken item does not get half in"
    assert prompts.lookup(Intent.FAQ) == "faq 1"


# Fan-out


async def value_of(value: object, after_s: float = 0.0) -> object:
    await asyncio.sleep(after_s)
    return value


async def test_a_branch_that_fails_or_is_late_leaves_the_others_alone() -> None:
    async def broken() -> None:
        raise ConnectionError("no luck")

    outcomes = await fan_out(
        [
            Branch("good", lambda: value_of(1, 0.05), 5000, CircuitBreaker("good", failures=5, pause_s=1)),
            Branch("broken", broken, 5000, CircuitBreaker("broken", failures=5, pause_s=1)),
            Branch("late", lambda: asyncio.Event().wait(), 20, CircuitBreaker("late", failures=5, pause_s=1)),
        ]
    )
    assert outcomes["good"].value == 1
    assert "no luck" in (outcomes["broken"].error or "")
    assert "20 ms" in (outcomes["late"].error or "")


async def test_a_cancelled_fan_out_leaves_no_task() -> None:
    before = asyncio.all_tasks()
    breaker = CircuitBreaker("long", failures=5, pause_s=1)
    running = asyncio.create_task(fan_out([Branch("long", lambda: asyncio.Event().wait(), 60_000, breaker)]))
    await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert asyncio.all_tasks() == before


# Routing


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return Catalogue.load(load_settings().data_dir / "catalogue.csv")


@pytest.fixture(scope="module")
def classifier() -> IntentClassifier:
    return IntentClassifier.from_data(load_settings())


def held_out(catalogue: Catalogue) -> list[tuple[Intent, str]]:
    rng = random.Random(3)
    queries = []
    for phrasing in load_phrasings(load_settings().data_dir / "query_templates.csv"):
        if phrasing.split == "held_out":
            one, other = rng.sample(catalogue.items, 2)
            slots = {"title": one.title, "title_ja": one.title_ja, "title2": other.title, "title2_ja": other.title_ja}
            text = phrasing.template.format(**slots, genre="horror", author=one.author.split(",")[0], order="MA-10023")
            queries.append((phrasing.intent, text))
    return queries


def test_held_out_phrasings_find_their_intent(catalogue: Catalogue, classifier: IntentClassifier) -> None:
    """The confusion matrix is shown in the second notebook; here is what it must not fall below."""
    queries = held_out(catalogue)
    confusion = Counter(
        (intent, classifier.classify(catalogue.mark_titles(text).masked)[0]) for intent, text in queries
    )
    right = sum(count for (intent, found), count in confusion.items() if intent is found)
    wrong = sum(count for (intent, found), count in confusion.items() if found not in {intent, Intent.DEFAULT})
    assert right / len(queries) >= 0.85
    assert wrong / len(queries) <= 0.12, "unsure is better than wrong"


def test_every_intent_has_a_route_and_noise_takes_the_careful_one(classifier: IntentClassifier) -> None:
    assert set(ROUTES) == set(Intent)
    assert classifier.classify("qwx zzkv 9")[0] is Intent.DEFAULT
    assert ROUTES[Intent.DEFAULT].large_model


def test_titles_are_found_whatever_their_case_unless_they_are_plain_words(catalogue: Catalogue) -> None:
    def titles(text: str) -> list[str]:
        return [item.title for item in catalogue.mentioned(text)]

    assert titles("is one piece better than NARUTO?") == ["One Piece", "Naruto"]
    assert titles("進撃の巨人とワンピース") == ["Attack on Titan", "One Piece"]
    assert titles("a real touch of orange") == []
    assert titles("Orange or Real?") == ["Orange", "Real"]
    assert titles("Tokyo Ghoul:re and Tokyo Ghoul") == ["Tokyo Ghoul:re", "Tokyo Ghoul"]
    assert titles("bananas") == []


def test_a_broken_catalogue_is_named_with_its_line(tmp_path) -> None:
    path = tmp_path / "catalogue.csv"
    path.write_text("manga_id,title\nm1,One Piece\n")
    with pytest.raises(DataError, match="line 2"):
        Catalogue.load(path)
    with pytest.raises(DataError, match=r"nothing\.csv"):
        Catalogue.load(tmp_path / "nothing.csv")


def test_the_data_is_what_its_readme_says(catalogue: Catalogue) -> None:
    data = load_settings().data_dir
    assert len(catalogue.items) >= 300
    assert len({item.title for item in catalogue.items}) == len(catalogue.items)
    assert all(item.title_ja and item.author and item.publisher and item.genres for item in catalogue.items)
    assert all(1945 < item.first_year <= 2026 and item.volumes > 0 for item in catalogue.items)
    assert {item.status for item in catalogue.items} == {"completed", "ongoing", "hiatus"}
    described = (data / "README.md").read_text(encoding="utf-8")
    assert all(path.name in described for path in data.iterdir())
    prompts = [json.loads(line) for line in (data / "prompts.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {prompt["intent"] for prompt in prompts} == {intent.value for intent in Intent}
    kinds = {(p.intent, p.language, p.split) for p in load_phrasings(data / "query_templates.csv")}
    assert len(kinds) == 8 * 2 * 2


# Warm-up


def test_warm_up_costs_what_the_specification_says() -> None:
    settings = load_settings()
    costs = [tier.month_usd for tier in tiers(settings)]
    budgets = [settings.haiku_ping_month_usd, settings.sonnet_warm_month_usd, settings.sonnet_stream_month_usd]
    assert costs == pytest.approx(budgets, abs=0.01)
    assert sum(costs) == pytest.approx(settings.warmup_month_usd, abs=0.01)


# Adaptive retry mode


class SetClock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def current_time(self) -> float:
        return self.now_s


def test_throttling_slows_this_client_down_and_success_speeds_it_up_again() -> None:
    clock = SetClock()
    rate = AdaptiveRate(10, clock)  # type: ignore[arg-type]

    def send(count: int, *, throttled: bool = False) -> list[float]:
        waits = []
        for _ in range(count):
            waits.append(rate.wait_s())
            clock.now_s += 0.01
            rate.answered(throttled=throttled)
        return waits

    assert set(send(300)) == {0.0}, "nothing is slowed down without throttling"
    send(1, throttled=True)
    slowed = [rate.wait_s() for _ in range(10)]
    assert slowed == sorted(slowed)
    assert slowed[-1] > 9 / 100, "ten at once now leave one after another"
    assert slowed[-1] <= 10 / 10, "but never slower than the floor"
    clock.now_s += 60
    send(300)
    clock.now_s += 60
    assert max(rate.wait_s() for _ in range(10)) < slowed[-1]
