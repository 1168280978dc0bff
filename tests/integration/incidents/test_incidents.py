"""Incidents: opened, worsened and resolved once, and each action taken once, however many machines judge."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pandas as pd
import pytest

from mangalib.aws import DocumentTable
from mangalib.benchmark.verdict import SLOWER, TARGET, Finding, Verdict
from mangalib.domain.releases import Release, ReleaseStore
from mangalib.errors import ActionError, ReleaseError, SettingsError
from mangalib.incidents.incidents import Actions, Incident, IncidentStore, describe, respond
from mangalib.incidents.pagers import PagerDuty
from mangalib.incidents.rollback import roll_back
from mangalib.local.stack import Stack
from mangalib.settings import Settings, load_settings
from tests.integration.domain.test_releases import dynamodb_of

NOW = datetime(2026, 11, 2, 3, 0, tzinfo=UTC)


@pytest.fixture
def tables(stack: Stack) -> Iterator[tuple[IncidentStore, ReleaseStore]]:
    client = dynamodb_of(stack)
    for name, key, kind in (("test-incidents", "incident", "S"), ("test-incident-releases", "release", "N")):
        client.create_table(
            TableName=name,
            KeySchema=[{"AttributeName": key, "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": key, "AttributeType": kind}],
            BillingMode="PAY_PER_REQUEST",
        )
    yield (
        IncidentStore(client, "test-incidents"),
        ReleaseStore(DocumentTable(client, "test-incident-releases", key="release", error=ReleaseError)),
    )
    for name in ("test-incidents", "test-incident-releases"):
        client.delete_table(TableName=name)


def verdict(run: int, *severities: int, kind: str = SLOWER, open_still: bool = False, at: datetime = NOW) -> Verdict:
    findings = [
        Finding(kind, f"intent-{n}", "total_ms", severity, at, 0.5, 0.4, 0.6, f"p95 +{10 * severity} %")
        for n, severity in enumerate(severities)
    ]
    worst = max(severities, default=0)
    return Verdict(
        run_id=f"run-{run}",
        started_at=at + timedelta(minutes=15 * run),
        severity=worst,
        sentence=f"severity {worst} in run {run}",
        findings=findings,
        improved=[],
        still_open=[("intent-0", "total_ms")] if open_still else [],
        comparison=pd.DataFrame(),
        baseline_runs=672,
        baseline_days=7.0,
    )


class RecordedActions:
    """Records the actions taken; each fails while ``fails`` is set."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fails = False
        self._lock = threading.Lock()

    def __call__(self, name: str) -> Any:
        def action(incident: Incident) -> str:
            with self._lock:
                self.calls.append(name)
            if self.fails:
                raise ActionError("not reached")
            return f"{name} done"

        return action

    def actions(self) -> Actions:
        return Actions({"pager": self("pager")}, self("rollback"), {"pager": self("resolve")})


def unresolved(store: IncidentStore) -> list[Incident]:
    return [incident for incident in store.all() if not incident.resolved]


def test_a_quiet_verdict_opens_nothing(tables: tuple[IncidentStore, ReleaseStore]) -> None:
    done = RecordedActions()
    assert respond(verdict(1), tables[0], done.actions()) == []
    assert tables[0].all() == []
    assert done.calls == []


def test_the_life_of_an_incident(tables: tuple[IncidentStore, ReleaseStore]) -> None:
    store, done = tables[0], RecordedActions()
    (opened,) = respond(verdict(1, 1), store, done.actions())
    assert [event.what for event in opened.events] == ["opened"]
    assert done.calls == [], "a warning sends no page"
    assert unresolved(store) == [opened]
    respond(verdict(2, 2), store, done.actions())
    assert done.calls == ["pager"]
    (worst,) = respond(verdict(3, 3, 1), store, done.actions())
    assert done.calls == ["pager", "rollback"], "an incident pages once"
    assert worst.affected == ["intent-0 total_ms", "intent-1 total_ms"]
    respond(verdict(4, 2), store, done.actions())
    (still,) = respond(verdict(5, open_still=True), store, done.actions())
    assert not still.resolved, "a series that is still slower is not back to normal"
    (over,) = respond(verdict(6), store, done.actions())
    assert over.resolved
    assert [event.what for event in over.events] == ["opened", "worsened", "worsened", "resolved"]
    assert done.calls == ["pager", "rollback", "resolve"]
    assert unresolved(store) == []
    assert "SEV-1 resolved" in describe(over)
    (again,) = respond(verdict(7, 2), store, done.actions())
    assert again.incident != over.incident
    assert done.calls[-1] == "pager"


def test_the_same_verdict_on_many_machines_acts_once(tables: tuple[IncidentStore, ReleaseStore]) -> None:
    store, done = tables[0], RecordedActions()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: respond(verdict(1, 3), store, done.actions()), range(8)))
    assert sorted(done.calls) == ["pager", "rollback"]
    assert len(store.all()) == 1


def test_a_failed_action_is_recorded_and_retried_with_the_next_verdict(
    tables: tuple[IncidentStore, ReleaseStore],
) -> None:
    store, done = tables[0], RecordedActions()
    done.fails = True
    (incident,) = respond(verdict(1, 3), store, done.actions())
    assert {name: action.state for name, action in incident.actions.items()} == {
        "rollback": "failed",
        "pager": "failed",
    }
    assert incident.actions["pager"].detail == "not reached"
    done.fails = False
    (incident,) = respond(verdict(2, 3), store, done.actions())
    assert {action.state for action in incident.actions.values()} == {"done"}
    respond(verdict(3, 3), store, done.actions())
    assert done.calls == ["rollback", "pager"] * 2


def test_over_target_for_weeks_pages_once_and_never_rolls_back(tables: tuple[IncidentStore, ReleaseStore]) -> None:
    store, done = tables[0], RecordedActions()
    for run in range(1, 20):
        respond(verdict(run, 3, kind=TARGET), store, done.actions())
    assert done.calls == ["pager"]
    respond(verdict(20, 2), store, done.actions())
    assert sorted(done.calls) == ["pager", "pager", "resolve"], "a regression is an incident of its own"


def test_an_older_run_does_not_change_a_newer_incident(tables: tuple[IncidentStore, ReleaseStore]) -> None:
    store, done = tables[0], RecordedActions()
    respond(verdict(5, 2), store, done.actions())
    assert respond(verdict(3), store, done.actions()) == []
    assert len(unresolved(store)) == 1


def test_without_a_table_no_action_is_taken(stack: Stack) -> None:
    done = RecordedActions()
    with pytest.raises(ActionError, match="no-such-table"):
        respond(verdict(1, 3), IncidentStore(dynamodb_of(stack), "no-such-table"), done.actions())
    assert done.calls == []


# Rolling back


def incident_of(since: datetime, run: datetime) -> Incident:
    return Incident("i", "regression", 3, since.isoformat(), run.isoformat(), "worse", [], [])


def test_the_release_under_which_it_got_worse_is_taken_back(tables: tuple[IncidentStore, ReleaseStore]) -> None:
    releases, tolerance = tables[1], timedelta(minutes=30)
    for note in ("good", "bad"):
        releases.activate(releases.create(Release(note=note)).number, note)
    now = datetime.now(UTC)
    early = incident_of(now - timedelta(hours=2), now + timedelta(minutes=1))
    assert "the regression began before release 2 became active" in roll_back(early, releases, tolerance)
    newer = incident_of(now - timedelta(hours=1), now - timedelta(hours=1))
    assert "became active after the run" in roll_back(newer, releases, tolerance)
    assert releases.pointer().active == 2
    caused = incident_of(now, now + timedelta(minutes=1))
    assert roll_back(caused, releases, tolerance) == "release 2 taken back, release 1 is active again"
    with pytest.raises(ActionError, match="release 1 not rolled back"):
        roll_back(incident_of(now, datetime.now(UTC) + timedelta(minutes=1)), releases, tolerance)


# PagerDuty, over real HTTP


class Receiver:
    """Answers with ``answers`` in order, then with 202; keeps the bodies."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.answers: list[int] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(receiver.answers.pop(0) if receiver.answers else 202)
                self.end_headers()
                self.wfile.write(b'{"status":"success"}')

            def log_message(self, *arguments: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v2/enqueue"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    running = Receiver()
    yield running
    running.close()


def paging(receiver: Receiver, **changes: Any) -> Settings:
    return load_settings(
        **{
            "pagerduty_url": receiver.url,
            "pagerduty_routing_key": "very-secret",
            "page_backoff_s": 0.01,
            "page_timeout_s": 2,
            **changes,
        }
    )


def test_a_page_is_an_event_with_the_incidents_key(receiver: Receiver) -> None:
    pager = PagerDuty(paging(receiver))
    incident = incident_of(NOW, NOW)
    assert pager.trigger(incident) == "trigger accepted"
    assert pager.resolve(incident) == "resolve accepted"
    page, resolved = receiver.bodies
    assert page["event_action"] == "trigger"
    assert page["payload"]["summary"] == "worse"
    assert page["payload"]["severity"] == "critical"
    assert page["dedup_key"] == resolved["dedup_key"] == "manga-assist/i"
    assert resolved["event_action"] == "resolve"


def test_a_page_is_retried_with_the_same_key_until_accepted(receiver: Receiver) -> None:
    receiver.answers = [503, 429, 500]
    PagerDuty(paging(receiver)).trigger(incident_of(NOW, NOW))
    assert len(receiver.bodies) == 4
    assert len({body["dedup_key"] for body in receiver.bodies}) == 1


def test_a_refusal_is_not_retried_and_an_unreachable_service_is_reported(receiver: Receiver) -> None:
    receiver.answers = [400]
    with pytest.raises(ActionError, match="PagerDuty answered 400"):
        PagerDuty(paging(receiver)).trigger(incident_of(NOW, NOW))
    assert len(receiver.bodies) == 1
    dead = paging(receiver, pagerduty_url="http://127.0.0.1:9/", page_attempts=2)
    with pytest.raises(ActionError, match="could not be reached") as raised:
        PagerDuty(dead).trigger(incident_of(NOW, NOW))
    assert "very-secret" not in str(raised.value)


def test_pages_leave_this_machine_encrypted_only(receiver: Receiver) -> None:
    with pytest.raises(SettingsError, match="expected https"):
        PagerDuty(paging(receiver, pagerduty_url="http://events.example.com/v2/enqueue"))
