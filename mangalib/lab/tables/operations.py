"""The operator's figures: are we all right, and if not, since when and where? From the benchmark store and the incidents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd

from mangalib.benchmark import Verdict
from mangalib.benchmark.detection import NAMES
from mangalib.domain import ROUTES, Intent
from mangalib.incidents import Incident
from mangalib.lab.tables.benchmark import budgets_ms
from mangalib.serving import tiers
from mangalib.settings import Settings

_QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
_MTOK = 1_000_000
_DAY_S = 86_400


@dataclass(frozen=True)
class Load:
    """What comes in: questions a day, the share of them in the busiest hour, and tokens a question sends to the model."""

    questions_a_day: int
    busiest_hour_share: float
    input_tokens: int


@dataclass(frozen=True)
class Trouble:
    """Something wrong with an intent: since when, until when if it is over, and how bad."""

    intent: str
    since: datetime
    until: datetime | None
    severity: str


def over_time(samples: pd.DataFrame, metric: str, every: str) -> pd.DataFrame:
    """One row an intent and span of time (``every`` as pandas writes it, ``"1h"``): ``intent, at, p50, p95, p99`` in ms, and how
    many ``answers``."""
    good = samples[samples["ok"].astype(bool) & ~samples["warmup"].astype(bool)]
    groups = good.groupby([good["intent"].astype(str), good["at"].dt.floor(every)])[metric]
    table = groups.quantile(np.array(list(_QUANTILES.values()))).unstack().set_axis(list(_QUANTILES), axis=1)
    return table.assign(answers=groups.size()).rename_axis(["intent", "at"]).reset_index()


def health(samples: pd.DataFrame, verdict: Verdict, incidents: Sequence[Incident], settings: Settings) -> pd.DataFrame:
    """One row an intent, the last 24 hours: percentiles of the first token beside its budget, errors, how bad, since when."""
    last = samples[samples["at"] > samples["at"].max() - pd.Timedelta(hours=24)]
    counted = last[~last["warmup"].astype(bool)]
    budgets = budgets_ms(settings, "first_token_ms")
    table = over_time(last, "first_token_ms", "36500D").drop(columns="at").set_index("intent")
    table["budget_ms"] = pd.Series(budgets)
    table["errors"] = 1 - counted.groupby(counted["intent"].astype(str))["ok"].mean()
    table["state"] = [
        _state(row["intent"], verdict, row["p95"] > row["budget_ms"]) for row in table.reset_index().to_dict("records")
    ]
    table["since"] = [_since(str(name), verdict, incidents) for name in table.index]
    return table.round({"p50": 0, "p95": 0, "p99": 0, "errors": 4}).reset_index()


def _state(intent: object, verdict: Verdict, over: bool) -> str:
    worst = max((finding.severity for finding in verdict.findings if finding.intent in (intent, "*")), default=0)
    if worst:
        return f"✗ {NAMES[worst]}"
    return "! over budget" if over else "✓ well"


def _since(intent: str, verdict: Verdict, incidents: Sequence[Incident]) -> str:
    known = [
        datetime.fromisoformat(i.since) for i in incidents if not i.resolved and any(intent in a for a in i.affected)
    ]
    known += [finding.since for finding in verdict.findings if finding.intent == intent and finding.since]
    return f"{min(known):%d %b %H:%M}" if known else ""


def troubles(verdict: Verdict, incidents: Sequence[Incident]) -> list[Trouble]:
    """What is, or was, wrong with first tokens, by intent: of incidents while they were open, and of the verdict since."""
    found = [
        Trouble(
            affected.split()[0],
            datetime.fromisoformat(incident.since),
            datetime.fromisoformat(incident.events[-1].at) if incident.resolved and incident.events else None,
            NAMES[incident.severity],
        )
        for incident in incidents
        for affected in incident.affected
        if affected.endswith("first_token_ms")
    ]
    drawn = {trouble.intent for trouble in found if trouble.until is None}
    return found + [
        Trouble(finding.intent, finding.since, None, NAMES[finding.severity])
        for finding in verdict.findings
        if finding.metric == "first_token_ms" and finding.since and finding.intent not in drawn
    ]


def answer(table: pd.DataFrame, verdict: Verdict) -> str:
    """The one sentence: are we all right, and if not, since when and where? ``table`` as of :func:`health`."""
    wrong = table[table["state"].str.startswith("✗")].to_dict("records")
    if wrong:
        where = [f"{row['intent']} ({row['state'][2:]}{row['since'] and ', since ' + row['since']})" for row in wrong]
        return f"No. {verdict.sentence} Where: {', '.join(where)}."
    over = table.loc[table["state"].str.startswith("!"), "intent"]
    if len(over):
        return f"Nothing has become worse; over the budget in the last 24 hours, as before: {', '.join(over)}."
    return "Yes. Every intent is within its budget, and nothing has become worse."


def error_rates(samples: pd.DataFrame, every: str) -> pd.DataFrame:
    """One row a span of time: ``at, asked, failed, share``."""
    counted = samples[~samples["warmup"].astype(bool)]
    by_time = counted.groupby(counted["at"].dt.floor(every))["ok"]
    table = pd.DataFrame({"asked": by_time.size(), "failed": by_time.size() - by_time.sum()})
    return table.assign(share=table["failed"] / table["asked"]).rename_axis("at").reset_index()


def answered_by(samples: pd.DataFrame, every: str = "1D") -> pd.DataFrame:
    """One row a span of time: the share of answers from each source, by its name."""
    good = samples[samples["ok"].astype(bool) & ~samples["warmup"].astype(bool)]
    counts = pd.crosstab(good["at"].dt.floor(every), good["source"].astype(str))
    return counts.div(counts.sum(axis=1), axis=0).rename_axis("at").reset_index()


def cost_a_day(samples: pd.DataFrame, load: Load, settings: Settings) -> pd.DataFrame:
    """One row a cause, in USD a day: ``what, usd, from``. Tokens × prices; of answers from their mean tokens in the store."""
    good = samples[samples["ok"].astype(bool)]
    asked = len(samples)
    rows = []
    for name, large in (("Haiku", False), ("Sonnet", True)):
        intents = {intent.value for intent in Intent if ROUTES[intent].large_model == large}
        answered = good[good["intent"].astype(str).isin(intents) & (good["source"].astype(str) == "model")]
        a_day = load.questions_a_day * len(answered) / asked
        price = (settings.sonnet_input_usd_per_mtok, settings.sonnet_output_usd_per_mtok)
        if not large:
            price = (settings.haiku_input_usd_per_mtok, settings.haiku_output_usd_per_mtok)
        tokens = float(answered["tokens"].mean()) if len(answered) else 0.0
        usd = a_day * (load.input_tokens * price[0] + tokens * price[1]) / _MTOK
        rows.append((f"answers, {name}", usd, f"{a_day:,.0f} a day, {load.input_tokens} tokens in, {tokens:.0f} out"))
    warm = sum(tier.month_usd for tier in tiers(settings)) / 30
    rows.append(("warm-up, a task", warm, "its three tiers"))
    ahead = 24 * settings.precompute_hour_tokens * settings.haiku_output_usd_per_mtok / _MTOK
    rows.append(
        ("pre-computation, at most", ahead, f"its budget of {settings.precompute_hour_tokens:,} tokens an hour")
    )
    return pd.DataFrame(rows, columns=["what", "usd", "from"])


def capacity(samples: pd.DataFrame, load: Load, settings: Settings) -> pd.DataFrame:
    """One row a limit: ``what, used, limit, share`` in the busiest hour. Answers at once by Little's law (Little, 1961): rate ×
    time of an answer."""
    good = samples[samples["ok"].astype(bool)]
    rate = load.questions_a_day * load.busiest_hour_share / 3600
    at_once = rate * float(good["total_ms"].mean()) / 1000
    # A customer reads and types for a while between questions; a connection lives until it has been idle.
    connections = rate * settings.idle_timeout_s
    new = load.questions_a_day * load.busiest_hour_share / 3600
    rows = [
        ("answers at once, of a task's pool", at_once, settings.pool_max_size),
        ("connections open", connections, settings.max_connections),
        ("new connections a second", new, settings.new_connections_per_second),
    ]
    table = pd.DataFrame(rows, columns=["what", "used", "limit"])
    return table.assign(share=table["used"] / table["limit"]).round({"used": 1, "share": 4})
