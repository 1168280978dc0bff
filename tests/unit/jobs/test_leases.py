"""File leases, and renewing a lease while its job runs."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from mangalib.errors import JobRunningError, NotebookError
from mangalib.jobs.leases import FileLeases, ScheduleCursor, TableLeases, keep_renewed, take_lease

LEASE_S = 0.03


class FakeLease:
    """Answers ``renew`` with one outcome after the other, an exception being raised; then with the last one."""

    def __init__(self, *outcomes: bool | Exception) -> None:
        self.cursor = ScheduleCursor()
        self.outcomes = list(outcomes)
        self.renewals = 0
        self.renewed_thrice = threading.Event()
        self.released = False

    def write(self, cursor: ScheduleCursor) -> None:
        self.cursor = cursor

    def renew(self) -> bool:
        self.renewals += 1
        if self.renewals == 3:
            self.renewed_thrice.set()
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def release(self) -> None:
        self.released = True


def test_a_file_lease_is_exclusive_until_released_and_hands_on_the_schedule_cursor(tmp_path: Path) -> None:
    one, other = FileLeases(tmp_path), FileLeases(tmp_path)
    assert one.cursor("nightly") == ScheduleCursor()
    lease = take_lease(one, "nightly")
    assert other.take("nightly") is None
    with pytest.raises(JobRunningError, match="nightly is already running"):
        take_lease(other, "nightly")
    take_lease(other, "weekly").release()
    lease.write(ScheduleCursor("2026-11-01T00:00:00+00:00", 1))
    assert other.cursor("nightly") == ScheduleCursor("2026-11-01T00:00:00+00:00", 1), "readable without the lease"
    lease.release()
    following = take_lease(other, "nightly")
    assert following.cursor == ScheduleCursor("2026-11-01T00:00:00+00:00", 1)
    following.release()


def test_files_of_leases_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    lease = take_lease(FileLeases(tmp_path), "nightly")
    lease.write(ScheduleCursor("2026-11-01T00:00:00+00:00"))
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "nightly.lock": 0o600,
        "nightly.json": 0o600,
    }
    lease.release()


def test_a_folder_that_cannot_hold_leases_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "a_file").write_text("")
    with pytest.raises(NotebookError, match="a_file: no leases can be kept there"):
        FileLeases(tmp_path / "a_file").take("nightly")


def test_a_lease_is_renewed_while_the_job_runs_and_released_afterwards() -> None:
    lease = FakeLease(True)
    with keep_renewed(lease, LEASE_S) as lost:
        assert lease.renewed_thrice.wait(10)
        assert not lost.is_set()
        assert not lease.released
    assert lease.released


def test_a_lease_taken_over_by_another_owner_is_noticed() -> None:
    with keep_renewed(FakeLease(True, False), LEASE_S) as lost:
        assert lost.wait(10)


def test_a_failed_renewal_is_retried_until_the_lease_has_expired() -> None:
    interrupted = FakeLease(NotebookError("table not reachable"), True)
    with keep_renewed(interrupted, 30 * LEASE_S) as lost:
        assert interrupted.renewed_thrice.wait(10)
        assert not lost.is_set()
    unreachable = FakeLease(NotebookError("table not reachable"))
    with keep_renewed(unreachable, LEASE_S) as lost:
        assert lost.wait(10)
    assert unreachable.renewals > 1


def test_a_shared_table_is_readable_and_writable_by_older_versions() -> None:
    body = '{"turn":{"due_at":"2026-11-01T00:00:00+00:00","attempts":1},"owner":"","until_s":0.0}'

    class Table:
        def __init__(self) -> None:
            self.item: dict[str, object] = {"job": "nightly", "body": body}

        def get_item(self, **_: object) -> dict[str, object]:
            return {"Item": self.item}

        def put_item(self, Item: dict[str, object], **_: object) -> None:  # noqa: N803
            self.item = Item

    table = Table()
    leases = TableLeases(table, "manga-jobs", LEASE_S)
    lease = take_lease(leases, "nightly")
    assert lease.cursor == ScheduleCursor("2026-11-01T00:00:00+00:00", 1)
    lease.release()
    assert str(table.item["body"]).startswith(body.partition(',"owner"')[0])
