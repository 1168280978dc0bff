"""Incidents: what a verdict sets off, and that it is set off once.

One incident is open at a time for what got worse (slower, failing), and one for what is over its target, which may be so for
weeks. It is opened, worsened and resolved by verdicts; each of its actions is claimed in DynamoDB before it is done, so that of
any number of machines that judge the same run one acts, once.
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
    """Something that was done about an incident: its state, when, and what came of it."""

    state: str
    at: str
    detail: str = ""


class Event(msgspec.Struct, frozen=True):
    """A moment in an incident's life: ``opened``, ``worsened`` or ``resolved``, by the verdict on which run."""

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
        """What tells pages about this incident from others."""
        return f"manga-assist/{self.incident}"


Act = Callable[[Incident], str]


class Actions(msgspec.Struct, frozen=True):
    """What can be done, each by name: an action takes the incident and says what it did, or raises ``ActionError``.

    ``pages`` wake somebody; ``rollback`` takes the release back; ``resolved`` tells the same services that it is over.
    """

    pages: dict[str, Act]
    rollback: Act
    resolved: dict[str, Act]


class IncidentStore:
    """Incidents in DynamoDB; ``dynamodb`` is a boto3 client that takes plain Python values. Raises ``ActionError`` when the
    table cannot be reached: then nothing is done, rather than twice."""

    def __init__(self, dynamodb: Any, table: str) -> None:
        self._table = DocumentTable(dynamodb, table, key="incident", error=ActionError)

    def open_one(self, kind: str) -> Incident | None:
        """The incident of that kind that is open, if one is."""
        pointer = self._table.get(f"open:{kind}")
        return self.get(str(pointer["body"])) if pointer is not None and pointer["body"] else None

    def get(self, incident: str) -> Incident | None:
        """One incident by its id."""
        item = self._table.get(incident)
        return None if item is None else _decoded(item)

    def all(self) -> list[Incident]:
        """All incidents, the oldest first."""
        found = [_decoded(item) for item in self._table.all() if not str(item["incident"]).startswith("open:")]
        return sorted(found, key=lambda incident: incident.events[0].at)

    def follow(self, verdict: Verdict) -> list[Incident]:
        """Bring the incidents up to what a verdict says; returns those that it opened, worsened, kept open or resolved."""
        touched = [self._follow(kind, verdict) for kind in KINDS]
        return [incident for incident in touched if incident is not None]

    def _follow(self, kind: str, verdict: Verdict) -> Incident | None:
        findings = [finding for finding in verdict.findings if (finding.kind == TARGET) == (kind == TARGET)]
        for _ in self._table.attempts():
            pointer = self._table.get(f"open:{kind}")
            name = str(pointer["body"]) if pointer is not None else ""
            before = self.get(name) if name else None
            if before is not None and datetime.fromisoformat(before.run_started_at) > verdict.started_at:
                log.info("run %s is older than what incident %s has seen", verdict.run_id, name)
                return None
            after = _next(before, kind, findings, verdict)
            if after is None:
                return None
            # The incident first, then what points to it: cut off in between, the next verdict writes the same again.
            points_to = {"incident": f"open:{kind}", "body": "" if after.resolved else after.incident}
            if self._write(after) and self._table.put(points_to, instead_of=pointer):
                return self.get(after.incident)
        raise ActionError("others are changing the incident at the same time; try again")

    def claim(self, incident: Incident, action: str) -> bool:
        """Whether this caller, and nobody else, is to do it. One that has failed for certain may be claimed again."""
        for _ in self._table.attempts():
            item = self._table.get(incident.incident)
            assert item is not None
            known = _decoded(item)
            if action in known.actions and known.actions[action].state != FAILED:
                return False
            if self._note(item, action, Action(CLAIMED, _now())):
                return True
        log.error("incident %s: others are changing it; whether %s is done is not known", incident.incident, action)
        return False

    def settle(self, incident: Incident, action: str, outcome: Action) -> None:
        """Note what came of an action that was claimed."""
        for _ in self._table.attempts():
            item = self._table.get(incident.incident)
            assert item is not None
            if self._note(item, action, outcome):
                return
        log.error("incident %s: that %s is %s could not be noted", incident.incident, action, outcome.state)

    def _note(self, item: dict[str, Any], action: str, outcome: Action) -> bool:
        known = _decoded(item)
        after = msgspec.structs.replace(known, actions={**known.actions, action: outcome})
        return self._table.put(_encoded(after), instead_of=item)

    def _write(self, incident: Incident) -> bool:
        """Write an incident unless another has changed it meanwhile; actions that are noted in it stay."""
        item = self._table.get(incident.incident)
        if item is not None:
            incident = msgspec.structs.replace(incident, actions=_decoded(item).actions)
        return self._table.put(_encoded(incident), instead_of=item)


def _encoded(incident: Incident) -> dict[str, Any]:
    return {"incident": incident.incident, "body": msgspec.json.encode(incident).decode()}


def _decoded(item: dict[str, Any]) -> Incident:
    return msgspec.json.decode(str(item["body"]), type=Incident)


def act(verdict: Verdict, store: IncidentStore, actions: Actions) -> list[Incident]:
    """Do what a verdict asks for, each thing once an incident: SEV-3 is logged and flagged (the open incident is the flag),
    SEV-2 pages, SEV-1 pages and rolls back. Returns the incidents as they are afterwards.

    An action that fails is noted in its incident and logged, and does not keep the others from being done.
    """
    touched = []
    for incident in store.follow(verdict):
        if incident.resolved:
            for name, tell in actions.resolved.items():
                if incident.actions.get(name, Action("", "")).state in {CLAIMED, DONE}:
                    _do(store, incident, f"{name} resolved", tell)
        else:
            log.warning("%s", incident.sentence)
            if incident.severity >= CRITICAL and incident.kind == REGRESSION:
                _do(store, incident, "rollback", actions.rollback)
            if incident.severity >= ALERT:
                for name, page in actions.pages.items():
                    # As it is by now: who is woken wants to know what was rolled back.
                    _do(store, store.get(incident.incident) or incident, name, page)
                if not actions.pages:
                    log.error("nobody was paged: set MANGA_PAGERDUTY_ROUTING_KEY or MANGA_SNS_TOPIC_ARN")
        touched.append(store.get(incident.incident) or incident)
    return touched


def _do(store: IncidentStore, incident: Incident, name: str, action: Act) -> None:
    if not store.claim(incident, name):
        return
    try:
        outcome = Action(DONE, _now(), action(incident))
    except MangaError as error:
        log.error("incident %s: %s failed: %s", incident.incident, name, error)
        outcome = Action(FAILED, _now(), str(error))
    store.settle(incident, name, outcome)


def _next(before: Incident | None, kind: str, findings: list[Finding], verdict: Verdict) -> Incident | None:
    """The incident after a verdict, or ``None`` when there is none and none is needed."""
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


def described(incident: Incident) -> str:
    """An incident in one line: how bad, what was done, and whether it is over."""
    done = ", ".join(f"{name}: {action.detail or action.state}" for name, action in incident.actions.items())
    state = "resolved" if incident.resolved else "open"
    return f"{NAMES[incident.severity]} {state}, {incident.incident}" + (f" ({done})" if done else "")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
