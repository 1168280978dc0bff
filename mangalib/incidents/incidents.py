"""Incidents: opened, worsened and resolved by verdicts, each action taken once.

At most one incident is open for regressions (slower, failing), and one for what is over its target, which may last for weeks.
Each action is claimed in DynamoDB before it is taken, so that however many machines judge the same run, one of them acts,
once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from mangalib.aws import DocumentTable
from mangalib.benchmark import TARGET, Finding, Verdict
from mangalib.benchmark.detection import ALERT, CRITICAL, NAMES, WARNING
from mangalib.errors import ActionError, MangaError

log = logging.getLogger(__name__)

REGRESSION = "regression"
KINDS = (REGRESSION, TARGET)
CLAIMED, DONE, FAILED = "claimed", "done", "failed"


class Action(msgspec.Struct, frozen=True):
    """An action taken on an incident: its state, when, and its result."""

    state: str
    at: str
    detail: str = ""


class Event(msgspec.Struct, frozen=True):
    """A change of an incident: ``opened``, ``worsened`` or ``resolved``, by the verdict on run ``run_id``."""

    what: str
    at: str
    run_id: str
    severity: int
    sentence: str


class Incident(msgspec.Struct, frozen=True):
    """One incident; ``severity`` is the worst so far. ``affected`` are its series as ``intent metric``."""

    incident: str
    kind: str
    severity: int
    since: str
    run_started_at: str
    sentence: str
    affected: list[str]
    events: list[Event]
    actions: dict[str, Action] = {}
    last_run: str = ""
    resolved: bool = False

    @property
    def dedup_key(self) -> str:
        """The key that identifies this incident's pages."""
        return f"manga-assist/{self.incident}"


ActionFunction = Callable[[Incident], str]


class Actions(msgspec.Struct, frozen=True):
    """The possible actions by name: each takes the incident and returns what was done, or raises ``ActionError``.

    ``pages`` page the on-call engineer; ``rollback`` takes the release back; ``resolutions`` resolve the pages.
    """

    pages: dict[str, ActionFunction]
    rollback: ActionFunction
    resolutions: dict[str, ActionFunction]


class IncidentStore:
    """Incidents in DynamoDB; ``dynamodb`` is a boto3 client that takes plain Python values. Raises ``ActionError`` when the
    table cannot be reached: doing nothing is better than acting twice."""

    def __init__(self, dynamodb: Any, table: str) -> None:
        self._table = DocumentTable(dynamodb, table, key="incident", error=ActionError)

    def get(self, incident: str) -> Incident | None:
        """The incident with that id, if there is one."""
        item = self._table.get(incident)
        return None if item is None else _decoded(item)

    def all(self) -> list[Incident]:
        """All incidents, the oldest first."""
        incidents = [_decoded(item) for item in self._table.all() if not str(item["incident"]).startswith("open:")]
        return sorted(incidents, key=lambda incident: incident.events[0].at)

    def follow(self, verdict: Verdict) -> list[Incident]:
        """Update the incidents from a verdict; returns those that it opened, worsened, kept open or resolved."""
        touched = [self._follow(kind, verdict) for kind in KINDS]
        return [incident for incident in touched if incident is not None]

    def _follow(self, kind: str, verdict: Verdict) -> Incident | None:
        findings = [finding for finding in verdict.findings if (finding.kind == TARGET) == (kind == TARGET)]
        for _ in self._table.attempts():
            pointer = self._table.get(f"open:{kind}")
            name = str(pointer["body"]) if pointer is not None else ""
            before = self.get(name) if name else None
            if before is not None and datetime.fromisoformat(before.run_started_at) > verdict.started_at:
                log.info("run %s is older than the newest run of incident %s: ignored", verdict.run_id, name)
                return None
            after = _next(before, kind, findings, verdict)
            if after is None:
                return None
            # The incident first, then the pointer to it: if interrupted in between, the next verdict writes both again.
            points_to = {"incident": f"open:{kind}", "body": "" if after.resolved else after.incident}
            if self._write(after) and self._table.put(points_to, instead_of=pointer):
                return self.get(after.incident)
        raise ActionError(f"incidents of kind {kind}: changed by others at the same time; try again")

    def claim(self, incident: Incident, action: str) -> bool:
        """Claim an action; ``True`` for one caller only. An action that is known to have failed can be claimed again."""
        for _ in self._table.attempts():
            item = self._table.get(incident.incident)
            assert item is not None
            known = _decoded(item)
            if action in known.actions and known.actions[action].state != FAILED:
                return False
            if self._record(item, action, Action(CLAIMED, _now())):
                return True
        log.error("incident %s: changed by others at the same time; %s was not claimed", incident.incident, action)
        return False

    def settle(self, incident: Incident, action: str, outcome: Action) -> None:
        """Record the result of a claimed action."""
        for _ in self._table.attempts():
            item = self._table.get(incident.incident)
            assert item is not None
            if self._record(item, action, outcome):
                return
        log.error("incident %s: the state of %s (%s) could not be recorded", incident.incident, action, outcome.state)

    def _record(self, item: dict[str, Any], action: str, outcome: Action) -> bool:
        known = _decoded(item)
        after = msgspec.structs.replace(known, actions={**known.actions, action: outcome})
        return self._table.put(_encoded(after), instead_of=item)

    def _write(self, incident: Incident) -> bool:
        """Write an incident unless it has been changed meanwhile; its recorded actions are kept."""
        item = self._table.get(incident.incident)
        if item is not None:
            incident = msgspec.structs.replace(incident, actions=_decoded(item).actions)
        return self._table.put(_encoded(incident), instead_of=item)


def _encoded(incident: Incident) -> dict[str, Any]:
    return {"incident": incident.incident, "body": msgspec.json.encode(incident).decode()}


def _decoded(item: dict[str, Any]) -> Incident:
    return msgspec.json.decode(str(item["body"]), type=Incident)


def respond(verdict: Verdict, store: IncidentStore, actions: Actions) -> list[Incident]:
    """Take the actions that a verdict requires, each once per incident: SEV-3 is logged and opens the incident, SEV-2 pages,
    SEV-1 pages and rolls back. Returns the incidents as they are afterwards.

    An action that fails is recorded in its incident and logged; the others are taken all the same.
    """
    touched = []
    for incident in store.follow(verdict):
        if incident.resolved:
            for name, resolve in actions.resolutions.items():
                if incident.actions.get(name, Action("", "")).state in {CLAIMED, DONE}:
                    _take(store, incident, f"{name} resolved", resolve)
        else:
            log.warning("%s", incident.sentence)
            if incident.severity >= CRITICAL and incident.kind == REGRESSION:
                _take(store, incident, "rollback", actions.rollback)
            if incident.severity >= ALERT:
                for name, page in actions.pages.items():
                    # Read again: the page says what was rolled back.
                    _take(store, store.get(incident.incident) or incident, name, page)
                if not actions.pages:
                    log.error(
                        "no page sent, no pager is configured: set MANGA_PAGERDUTY_ROUTING_KEY or MANGA_SNS_TOPIC_ARN"
                    )
        touched.append(store.get(incident.incident) or incident)
    return touched


def _take(store: IncidentStore, incident: Incident, name: str, action: ActionFunction) -> None:
    if not store.claim(incident, name):
        return
    try:
        outcome = Action(DONE, _now(), action(incident))
    except MangaError as error:
        log.error("incident %s: %s failed: %s", incident.incident, name, error)
        outcome = Action(FAILED, _now(), str(error))
    store.settle(incident, name, outcome)


def _next(before: Incident | None, kind: str, findings: list[Finding], verdict: Verdict) -> Incident | None:
    """The incident after a verdict, or ``None`` when there is none and the verdict opens none."""
    affected = sorted({f"{finding.intent} {finding.metric}" for finding in findings})
    severity = max((finding.severity for finding in findings), default=0)
    moment = verdict.started_at.isoformat()
    if before is None:
        if severity < WARNING:
            return None
        since = min((finding.since for finding in findings if finding.since), default=verdict.started_at)
        sentence = verdict.sentence if kind == REGRESSION else findings[0].intent + ": " + findings[0].reason
        name = f"{kind.replace(' ', '-')}-{verdict.run_id}"
        opened = Event("opened", _now(), verdict.run_id, severity, sentence)
        return Incident(
            name, kind, severity, since.isoformat(), moment, sentence, affected, [opened], last_run=verdict.run_id
        )
    after = msgspec.structs.replace(before, run_started_at=moment, last_run=verdict.run_id)
    if severity > before.severity:
        event = Event("worsened", _now(), verdict.run_id, severity, verdict.sentence)
        return msgspec.structs.replace(
            after,
            severity=severity,
            sentence=verdict.sentence,
            affected=sorted({*before.affected, *affected}),
            events=[*before.events, event],
        )
    still = {f"{intent} {metric}" for intent, metric in verdict.still_open}
    if not findings and not (kind == REGRESSION and still & set(before.affected)):
        event = Event("resolved", _now(), verdict.run_id, 0, verdict.sentence)
        return msgspec.structs.replace(after, resolved=True, events=[*before.events, event])
    return msgspec.structs.replace(after, affected=sorted({*before.affected, *affected}))


def describe(incident: Incident) -> str:
    """An incident in one line: severity, state, and the actions taken."""
    done = ", ".join(f"{name}: {action.detail or action.state}" for name, action in incident.actions.items())
    state = "resolved" if incident.resolved else "open"
    return f"{NAMES[incident.severity]} {state}, {incident.incident}" + (f" ({done})" if done else "")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
