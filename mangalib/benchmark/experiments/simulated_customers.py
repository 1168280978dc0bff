"""Simulated customers with the behaviour that the product's specification describes: what they ask, what next, and when.

As a session log, for training; and as real conversations, in which the next question is about a title that the last answer
named. The transition probabilities are chosen around the specification's figures, the times of day around an evening peak in
Japan.
"""

from __future__ import annotations

import asyncio
import csv
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import pandas as pd
from tqdm.auto import tqdm

from mangalib.client import Client
from mangalib.domain import Catalogue, Manga
from mangalib.errors import MangaError
from mangalib.settings import HitRateSettings, WorkloadSettings

log = logging.getLogger(__name__)

TRIGGERS = ("product_inquiry", "recommendation", "order_status", "category_browse")
END = ""
SAME, LISTED, NONE = "same", "listed", "none"

# After a topic: the next topic, what it is about, and its probability. Those after an inquiry are the specification's.
_NEXT: dict[str, list[tuple[str, str, float]]] = {
    "start": [
        ("product_inquiry", LISTED, 0.45),
        ("recommendation", NONE, 0.22),
        ("category_browse", NONE, 0.15),
        ("order_status", NONE, 0.18),
    ],
    "product_inquiry": [
        ("purchase", SAME, 0.35),
        ("similar", SAME, 0.25),
        ("release", SAME, 0.20),
        ("availability", SAME, 0.10),
        (END, NONE, 0.10),
    ],
    "recommendation": [("product_inquiry", LISTED, 0.75), ("category_browse", NONE, 0.10), (END, NONE, 0.15)],
    "similar": [("product_inquiry", LISTED, 0.60), ("purchase", SAME, 0.15), (END, NONE, 0.25)],
    "category_browse": [("product_inquiry", LISTED, 0.75), ("recommendation", NONE, 0.10), (END, NONE, 0.15)],
    "order_status": [("order_eta", NONE, 0.70), ("recommendation", NONE, 0.10), (END, NONE, 0.20)],
    "order_eta": [("recommendation", NONE, 0.15), (END, NONE, 0.85)],
    "purchase": [("availability", SAME, 0.25), ("price", SAME, 0.25), ("order_status", NONE, 0.05), (END, NONE, 0.45)],
    "availability": [("purchase", SAME, 0.45), ("price", SAME, 0.15), (END, NONE, 0.40)],
    "release": [("availability", SAME, 0.20), ("purchase", SAME, 0.25), (END, NONE, 0.55)],
    "price": [("purchase", SAME, 0.40), (END, NONE, 0.60)],
}
# Share of a day's sessions that begin in each hour of the Japanese day.
_HOURS = [2, 1, 1, 1, 1, 1, 2, 4, 5, 4, 4, 4, 6, 5, 4, 4, 5, 6, 8, 11, 13, 12, 9, 5]
_PRONOUN_SHARE = 0.6
_PRONOUNS = {"en": "it", "ja": "それ"}
_SEGMENTS = ("action", "romance", "horror", "sports", "mystery")


@dataclass(frozen=True)
class Step:
    """One planned question: its topic, and whether it is about the same title, a listed one, or none."""

    topic: str
    about: str


@dataclass(frozen=True)
class SessionPlan:
    """A planned session: when it begins, its language, the customer's segment, and its steps."""

    session_id: str
    begins: datetime
    language: str
    segment: str
    steps: list[Step]


class Customers:
    """A generator of sessions; the same ones for the same seed."""

    def __init__(self, settings: WorkloadSettings, seed: int) -> None:
        self._settings = settings
        self._rng = random.Random(seed)
        self._catalogue = Catalogue.load(settings.data_dir / "catalogue.csv")
        with (settings.data_dir / "topics.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        self._phrasings: dict[tuple[str, str], list[str]] = {}
        for row in rows:
            self._phrasings.setdefault((row["topic"], row["language"]), []).append(row["template"])
        self._by_segment = {
            segment: [manga for manga in self._catalogue.items if segment in manga.genres] for segment in _SEGMENTS
        }

    def plans(self, count: int, begins: datetime, days: int) -> list[SessionPlan]:
        """``count`` sessions within ``days`` days from ``begins``, in the order of their beginning."""
        rng, plans = self._rng, []
        for number in range(count):
            hour = rng.choices(range(24), _HOURS)[0]
            # Hours are Japan's, nine ahead of UTC.
            at = begins + timedelta(days=rng.randrange(days), hours=hour - 9, seconds=rng.randrange(3600))
            language = "ja" if rng.random() < self._settings.japanese_share else "en"
            plans.append(SessionPlan(f"s{number:06d}", at, language, rng.choice(_SEGMENTS), self._steps()))
        return sorted(plans, key=lambda plan: plan.begins)

    def log(self, count: int, begins: datetime, days: int) -> pd.DataFrame:
        """The log of such sessions: ``session_id, at, intent, entity, segment, text``."""
        rows = []
        for plan in self.plans(count, begins, days):
            at, subject = plan.begins, self.title(plan.segment, plan.begins)
            for step in plan.steps:
                if step.about == LISTED:
                    subject = self.title(plan.segment, at)
                text = self.phrase(step, plan.language, subject)
                entity = "" if step.about == NONE else subject.manga_id
                rows.append((plan.session_id, at, step.topic, entity, plan.segment, text))
                at += timedelta(seconds=self._rng.uniform(8, 60))
        columns = ["session_id", "at", "intent", "entity", "segment", "text"]
        return pd.DataFrame(rows, columns=columns).sort_values("at", ignore_index=True)

    def title(self, segment: str, at: datetime) -> Manga:
        """A title that a customer of a segment asks about: popular ones more often, and one that is the topic of the day."""
        own = self._by_segment[segment]
        if self._rng.random() < 0.2:
            return own[at.toordinal() % len(own)]
        weights = [1 / (rank + 1) ** self._settings.title_zipf_exponent for rank in range(len(own))]
        return self._rng.choices(own, weights)[0]

    def phrase(self, step: Step, language: str, title: Manga) -> str:
        """The step as a question; one about the same title often uses a pronoun."""
        template = self._rng.choice(self._phrasings[step.topic, language])
        name = title.title_ja if language == "ja" else title.title
        if step.about == SAME and self._rng.random() < _PRONOUN_SHARE:
            name = _PRONOUNS[language]
        return template.format(title=name)

    def titles_in(self, text: str) -> list[Manga]:
        """The titles that an answer names."""
        return self._catalogue.mentioned(text)

    def _steps(self) -> list[Step]:
        steps: list[Step] = []
        after = "start"
        while len(steps) < 8:
            transitions = _NEXT[after]
            topic, about, _ = self._rng.choices(transitions, [share for *_, share in transitions])[0]
            if topic == END:
                break
            steps.append(Step(topic, about))
            after = topic
        return steps


async def converse(
    connect: Callable[[str], Client],
    customers: Customers,
    plans: Sequence[SessionPlan],
    *,
    think_s: float,
    at_once: int,
) -> pd.DataFrame:
    """Hold the sessions, ``at_once`` of them concurrently, with ``think_s`` between an answer and the next question.

    One row per question: ``session_id, trigger, topic, text, source, first_token_ms, total_ms, tokens``; ``trigger`` is the topic
    before it, empty for the first. ``connect`` returns a client for a session's id. A session whose connection or answer fails
    ends there, with a warning; its rows so far are kept.
    """
    rows: list[dict[str, object]] = []
    waiting: Iterator[SessionPlan] = iter(plans)
    with tqdm(total=len(plans), desc="sessions", leave=False) as bar:

        async def customer() -> None:
            for plan in waiting:
                try:
                    async with connect(plan.session_id) as client:
                        async for row in _session(client, customers, plan, think_s):
                            rows.append(row)
                except MangaError as error:
                    log.warning("session %s ended early: %s", plan.session_id, error)
                bar.update()

        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(customer())
    return pd.DataFrame(rows)


async def _session(
    client: Client, customers: Customers, plan: SessionPlan, think_s: float
) -> AsyncIterator[dict[str, object]]:
    subject = customers.title(plan.segment, plan.begins)
    listed: list[Manga] = []
    trigger = ""
    for answers, step in enumerate(plan.steps):
        if step.about == LISTED and trigger:
            if not listed:
                break
            subject = listed[answers % len(listed)]
        text = customers.phrase(step, plan.language, subject)
        reply = await client.answer(text)
        named = customers.titles_in(reply.text)
        listed = [title for title in named if title != subject] or listed
        yield {
            "session_id": plan.session_id,
            "trigger": trigger,
            "topic": step.topic,
            "text": text,
            "source": reply.metadata.source if reply.metadata else "",
            "first_token_ms": reply.first_token_ms,
            "total_ms": reply.total_ms,
            "tokens": reply.metadata.tokens if reply.metadata else 0,
        }
        trigger = step.topic
        await asyncio.sleep(think_s)


def hit_rates(rows: pd.DataFrame, settings: HitRateSettings) -> pd.DataFrame:
    """One row per trigger: ``trigger, follow_ups, hits, hit_rate, expected, first_token_p95_ms, limit_ms``; a hit has the source
    ``precomputed``."""
    expected = (
        settings.inquiry_hit_rate,
        settings.recommendation_hit_rate,
        settings.order_hit_rate,
        settings.browse_hit_rate,
    )
    table = []
    for trigger, share in zip(TRIGGERS, expected, strict=True):
        follow_ups = rows[rows["trigger"] == trigger]
        hits = follow_ups[follow_ups["source"] == "precomputed"]
        prefetched = trigger == "category_browse"
        table.append(
            {
                "trigger": trigger,
                "follow_ups": len(follow_ups),
                "hits": len(hits),
                "hit_rate": len(hits) / max(1, len(follow_ups)),
                "expected": share,
                "first_token_p95_ms": hits["first_token_ms"].quantile(0.95) if len(hits) else float("nan"),
                "limit_ms": settings.prefetch_first_token_ms if prefetched else settings.precomputed_first_token_ms,
            }
        )
    return pd.DataFrame(table)
