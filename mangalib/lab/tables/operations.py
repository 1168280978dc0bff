"""Tables for operators, from the benchmark store and the incidents: health, degradations, errors, sources, cost and capacity."""

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
from mangalib.settings import BudgetSettings, CostSettings, LimitSettings

_QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
_MTOK = 1_000_000


@dataclass(frozen=True)
class Traffic:
    """Questions a day, the share of them in the busiest hour, and the input tokens of a question."""

    questions_a_day: int
    busiest_hour_share: float
    input_tokens: int


@dataclass(frozen=True)
class Degradation:
    """An intent's first token became slower: from ``since`` to ``until`` (``None`` while it lasts), with a severity's name."""

    intent: str
    since: datetime
    until: datetime | None
    severity: str


def latency_percentiles(samples: pd.DataFrame, metric: str, every: str) -> pd.DataFrame:
    """One row per intent and interval: ``intent, at, p50, p95, p99`` (ms) and the number of ``answers``.

    ``every`` is a pandas frequency, such as ``"1h"``.
    """
    answered = _answered(samples)
    groups = answered.groupby([answered["intent"].astype(str), answered["at"].dt.floor(every)])[metric]
    table = groups.quantile(np.array(list(_QUANTILES.values()))).unstack().set_axis(list(_QUANTILES), axis=1)
    return table.assign(answers=groups.size()).rename_axis(["intent", "at"]).reset_index()


def intent_health(
    samples: pd.DataFrame, verdict: Verdict, incidents: Sequence[Incident], settings: BudgetSettings
) -> pd.DataFrame:
    """One row per intent, last 24 hours: first-token percentiles and budget (ms), share of errors, state, since when."""
    last = samples[samples["at"] > samples["at"].max() - pd.Timedelta(hours=24)]
    counted = last[~last["warmup"].astype(bool)]
    budgets = budgets_ms(settings, "first_token_ms")
    table = latency_percentiles(last, "first_token_ms", "36500D").drop(columns="at").set_index("intent")
    table["budget_ms"] = pd.Series(budgets)
    table["errors"] = 1 - counted.groupby(counted["intent"].astype(str))["ok"].mean()
    table["state"] = [
        _state(row["intent"], verdict, row["p95"] > row["budget_ms"]) for row in table.reset_index().to_dict("records")
    ]
    table["since"] = [_since(str(name), verdict, incidents) for name in table.index]
    return table.round({"p50": 0, "p95": 0, "p99": 0, "errors": 4}).reset_index()


def _state(intent: object, verdict: Verdict, over_budget: bool) -> str:
    worst = max((finding.severity for finding in verdict.findings if finding.intent in (intent, "*")), default=0)
    if worst:
        return f"✗ {NAMES[worst]}"
    return "! over budget" if over_budget else "✓ OK"


def _since(intent: str, verdict: Verdict, incidents: Sequence[Incident]) -> str:
    since = [
        datetime.fromisoformat(i.since) for i in incidents if not i.resolved and any(intent in a for a in i.affected)
    ]
    since += [finding.since for finding in verdict.findings if finding.intent == intent and finding.since]
    return f"{min(since):%d %b %H:%M}" if since else ""


def degradations(verdict: Verdict, incidents: Sequence[Incident]) -> list[Degradation]:
    """Slower first tokens by intent: one per incident while it was open, and one per finding that no open incident covers."""
    recorded = [
        Degradation(
            affected.split()[0],
            datetime.fromisoformat(incident.since),
            datetime.fromisoformat(incident.events[-1].at) if incident.resolved and incident.events else None,
            NAMES[incident.severity],
        )
        for incident in incidents
        for affected in incident.affected
        if affected.endswith("first_token_ms")
    ]
    still_open = {one.intent for one in recorded if one.until is None}
    return recorded + [
        Degradation(finding.intent, finding.since, None, NAMES[finding.severity])
        for finding in verdict.findings
        if finding.metric == "first_token_ms" and finding.since and finding.intent not in still_open
    ]


def health_summary(table: pd.DataFrame, verdict: Verdict) -> str:
    """One sentence: is everything OK, and if not, where and since when? ``table`` as from :func:`intent_health`."""
    degraded = table[table["state"].str.startswith("✗")].to_dict("records")
    if degraded:
        where = [
            f"{row['intent']} ({row['state'][2:]}{row['since'] and ', since ' + row['since']})" for row in degraded
        ]
        return f"No. {verdict.sentence} Where: {', '.join(where)}."
    over_budget = table.loc[table["state"].str.startswith("!"), "intent"]
    if len(over_budget):
        return f"Nothing has become worse; over the budget in the last 24 hours, as before: {', '.join(over_budget)}."
    return "Yes. Every intent is within its budget, and nothing has become worse."


def error_rates(samples: pd.DataFrame, every: str) -> pd.DataFrame:
    """One row per interval: ``at, asked, failed, share`` (of failures)."""
    counted = samples[~samples["warmup"].astype(bool)]
    by_time = counted.groupby(counted["at"].dt.floor(every))["ok"]
    table = pd.DataFrame({"asked": by_time.size(), "failed": by_time.size() - by_time.sum()})
    return table.assign(share=table["failed"] / table["asked"]).rename_axis("at").reset_index()


def source_shares(samples: pd.DataFrame) -> pd.DataFrame:
    """One row per day: ``at``, and the share of answers from each source, a column each."""
    answered = _answered(samples)
    counts = pd.crosstab(answered["at"].dt.floor("1D"), answered["source"].astype(str))
    return counts.div(counts.sum(axis=1), axis=0).rename_axis("at").reset_index()


def daily_cost(samples: pd.DataFrame, traffic: Traffic, settings: CostSettings) -> pd.DataFrame:
    """One row per cause, in USD a day: ``what, usd, from``. Tokens times prices; output tokens are the store's means."""
    rows = [
        _model_cost("Haiku", samples, traffic, settings.haiku_input_usd_per_mtok, settings.haiku_output_usd_per_mtok),
        _model_cost(
            "Sonnet", samples, traffic, settings.sonnet_input_usd_per_mtok, settings.sonnet_output_usd_per_mtok
        ),
        ("warm-up, a task", sum(tier.month_usd for tier in tiers(settings)) / 30, "its three tiers"),
    ]
    hourly = settings.precompute_hour_tokens
    at_most = 24 * hourly * settings.haiku_output_usd_per_mtok / _MTOK
    rows.append(("pre-computation, at most", at_most, f"its budget of {hourly:,} tokens an hour"))
    return pd.DataFrame(rows, columns=["what", "usd", "from"])


def _model_cost(
    name: str, samples: pd.DataFrame, traffic: Traffic, input_price: float, output_price: float
) -> tuple[str, float, str]:
    intents = {intent.value for intent in Intent if ROUTES[intent].large_model == (name == "Sonnet")}
    from_model = samples["ok"].astype(bool) & (samples["source"].astype(str) == "model")
    answered = samples[from_model & samples["intent"].astype(str).isin(intents)]
    daily = traffic.questions_a_day * len(answered) / len(samples)
    output_tokens = float(answered["tokens"].mean()) if len(answered) else 0.0
    usd = daily * (traffic.input_tokens * input_price + output_tokens * output_price) / _MTOK
    return f"answers, {name}", usd, f"{daily:,.0f} a day, {traffic.input_tokens} tokens in, {output_tokens:.0f} out"


def capacity(samples: pd.DataFrame, traffic: Traffic, settings: LimitSettings) -> pd.DataFrame:
    """One row per limit: ``what, used, limit, share`` in the busiest hour.

    Concurrent answers are arrival rate times duration, by Little's law (Little, 1961).
    """
    answered = samples[samples["ok"].astype(bool)]
    rate = traffic.questions_a_day * traffic.busiest_hour_share / 3600
    concurrent = rate * float(answered["total_ms"].mean()) / 1000
    # A connection stays open while its customer reads and types, until it has been idle for the time-out.
    connections = rate * settings.idle_timeout_s
    rows = [
        ("answers at once, of a task's pool", concurrent, settings.pool_max_size),
        ("connections open", connections, settings.max_connections),
        ("new connections a second", rate, settings.new_connections_per_second),
    ]
    table = pd.DataFrame(rows, columns=["what", "used", "limit"])
    return table.assign(share=table["used"] / table["limit"]).round({"used": 1, "share": 4})


def _answered(samples: pd.DataFrame) -> pd.DataFrame:
    return samples[samples["ok"].astype(bool) & ~samples["warmup"].astype(bool)]
