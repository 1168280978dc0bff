"""Many runs on a real Dask cluster of worker processes, one of which is killed while it works."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from distributed import Client

from mangalib.cluster import cluster
from mangalib.errors import NotebookError, SettingsError
from mangalib.jobs.grid import grid_points, run_grid
from mangalib.jobs.parameters import job_of
from mangalib.jobs.runs import Runs
from mangalib.precompute.prediction.distributed import train_partitioned
from mangalib.precompute.prediction.session_log import SessionLog
from mangalib.precompute.prediction.training import train_on_log
from mangalib.precompute.prediction.transition_model import TransitionModel
from mangalib.settings import Settings
from tests.integration.jobs.test_execute import wait_until
from tests.small_notebooks import RECORD, write_notebook

pytestmark = pytest.mark.filterwarnings("ignore:.*:ResourceWarning")


def pids(client: Client) -> dict[str, int]:
    by_worker: dict[str, int] = client.run(os.getpid)
    return by_worker


def test_a_grid_survives_a_killed_worker_and_each_point_finishes_once(
    two_workers: Client, tmp_path: Path, runs: Runs, settings: Settings
) -> None:
    starts = tmp_path / "starts.txt"
    source = write_notebook(
        tmp_path / "grid.ipynb",
        f"with open({str(starts)!r}, 'a') as file: print(number, file=file)\nimport time\ntime.sleep(1)",
        RECORD,
    )
    grid = [job_of(source, point, timeout_s=60) for point in grid_points({"number": list(range(1, 13))})]
    victim = next(iter(pids(two_workers).values()))
    killed = threading.Event()

    def kill() -> None:
        wait_until(lambda: len([summary for summary in runs.index() if summary.status == "ok"]) >= 3)
        os.kill(victim, signal.SIGKILL)
        killed.set()

    killer = threading.Thread(target=kill)
    killer.start()
    address = two_workers.scheduler.address  # type: ignore[union-attr]
    done = list(run_grid(grid, runs.storage.url(), settings, address, progress=False))
    killer.join()

    assert killed.is_set()
    assert all(run.ok for run in done), [run.record.error for run in done]
    assert sorted(run.record.results["number"] for run in done) == list(range(1, 13))
    summaries = runs.index()
    assert len(summaries) == 12
    assert {summary.status for summary in summaries} == {"ok"}
    started = Counter(starts.read_text().split())
    restarted = {number for number, times in started.items() if times > 1}
    retried = {str(run.record.results["number"]) for run in done if run.record.attempt > 1}
    assert set(started) == {str(number) for number in range(1, 13)}
    assert restarted <= retried, "only the interrupted point was started again"
    assert len(retried) <= 1


def test_without_a_cluster_a_grid_runs_on_one_local_worker(tiny: Path, runs: Runs, settings: Settings) -> None:
    grid = [job_of(tiny, point, timeout_s=60) for point in grid_points({"number": [1, 2]})]
    done = list(run_grid(grid, runs.storage.url(), settings, None, progress=False))
    assert sorted(run.record.results["number"] for run in done) == [1, 2]


def test_a_local_cluster_listens_on_loopback_only() -> None:
    with cluster(None) as client:
        client.wait_for_workers(1, timeout=30)
        me = psutil.Process()
        listening = [
            connection.laddr.ip
            for process in (me, *me.children(recursive=True))
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]
    assert listening
    assert set(listening) == {"127.0.0.1"}


def test_a_failed_point_is_a_failed_run_and_the_others_finish(tmp_path: Path, runs: Runs, settings: Settings) -> None:
    source = write_notebook(tmp_path / "grid.ipynb", "assert number != 2, 'two'", RECORD)
    grid = [job_of(source, point, timeout_s=60) for point in grid_points({"number": [1, 2, 3]})]
    done = {
        run.record.parameters["number"]: run
        for run in run_grid(grid, runs.storage.url(), settings, None, progress=False)
    }
    assert [done[number].ok for number in (1, 2, 3)] == [True, False, True]


def test_an_invalid_grid_or_scheduler_is_an_error_before_anything_starts(
    tiny: Path, runs: Runs, settings: Settings
) -> None:
    with pytest.raises(NotebookError, match="expected a JSON list"):
        grid_points({"number": 3})
    with pytest.raises(SettingsError, match="no response from a Dask scheduler"):
        list(
            run_grid([job_of(tiny, {}, timeout_s=9)], runs.storage.url(), settings, "tcp://127.0.0.1:9", progress=False)
        )
    assert runs.index() == []


def model_of(path: Path, settings: Settings) -> TransitionModel:
    log = SessionLog(path, settings.session_events_max)
    return train_on_log(log, order=settings.transition_order, half_life_days=settings.transition_half_life_days)


def test_transition_counts_of_a_partitioned_log_equal_those_of_the_whole_log(
    two_workers: Client, tmp_path: Path, settings: Settings
) -> None:
    path = settings.data_dir / "example_sessions.csv"
    table = pd.read_csv(path)
    parts = tmp_path / "parts"
    parts.mkdir()
    # Sorted by time, so that parts begin and end in the middle of sessions.
    table = table.sort_values("at", kind="stable")
    for number, positions in enumerate(np.array_split(np.arange(len(table)), 12)):
        table.iloc[positions].to_csv(parts / f"part-{number:02d}.csv", index=False)
    os.kill(next(iter(pids(two_workers).values())), signal.SIGKILL)
    model = train_partitioned(two_workers, str(parts), settings, progress=False)
    expected = model_of(path, settings)
    assert model.transitions == expected.transitions
    assert set(model.intents) == set(expected.intents)
    for history in (["product_inquiry"], ["recommendation", "product_inquiry"], ["order_status"]):
        one, other = model.next_intents(history), expected.next_intents(history)
        assert one.keys() == other.keys()
        assert all(abs(one[name] - other[name]) < 1e-6 for name in one)
