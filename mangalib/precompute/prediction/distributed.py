"""A transition model of a log in many files, in a folder or on S3, counted by the workers of a cluster.

Each file is one task; sessions that stand in several files are left out there and counted together at the end, so that the
model is the one that the log in one piece would give. A result is fetched as soon as it is there, and what a worker takes with
it when it dies is counted again by another.
"""

from __future__ import annotations

import tempfile
import uuid
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import duckdb
import numpy as np
import numpy.typing as npt
import pandas as pd
from distributed import Client as Cluster
from distributed import as_completed
from tqdm.auto import tqdm

from mangalib.errors import DataError
from mangalib.precompute.prediction.session_log import READERS, SessionLog
from mangalib.precompute.prediction.transition_model import TransitionModel, learn
from mangalib.settings import Settings
from mangalib.storage import Storage

Result = TypeVar("Result")


def learn_partitioned(cluster: Cluster, url: str, settings: Settings, *, progress: bool) -> TransitionModel:
    """Learn from all files under ``url``; the workers must reach it. Raises ``DataError`` naming the file that is wrong."""
    names = [name for name in Storage(url, settings).names() if Path(name).suffix.lower() in READERS]
    if not names:
        raise DataError(f"{url}: no session log; expected files that end in {', '.join(sorted(READERS))}")
    found = _each(cluster, "sessions", names, partial(_sessions, url=url, settings=settings), progress)
    count = Counter(np.concatenate(list(found.values())).tolist())
    shared = np.array(sorted(session for session, files in count.items() if files > 1), dtype=np.uint64)
    task = partial(_learned, url=url, shared=shared, settings=settings)
    parts = _each(cluster, "transitions", names, task, progress)
    models = [model for model, _ in parts.values() if model is not None]
    rest = pd.concat([rows for _, rows in parts.values()])
    if len(rest):
        models.append(_of_rows(rest, settings))
    return TransitionModel.merged(models)


def _each(
    cluster: Cluster, what: str, names: list[str], task: Callable[[str], Result], progress: bool
) -> dict[str, Result]:
    futures = cluster.map(task, names, key=[f"{what}-{uuid.uuid4().hex}" for _ in names], pure=False)
    of = dict(zip((future.key for future in futures), names, strict=True))
    ended = tqdm(
        as_completed(futures, with_results=True), desc=what, total=len(names), disable=not progress, leave=False
    )
    return {of[future.key]: result for future, result in ended}


def _sessions(name: str, url: str, settings: Settings) -> npt.NDArray[np.uint64]:
    """On a worker: the sessions that stand in a file."""
    with tempfile.TemporaryDirectory(prefix="mangalib-part-") as folder, duckdb.connect() as database:
        log = SessionLog(Storage(url, settings).fetch(name, Path(folder)), settings.session_events_max)
        source, _, _ = log.checked(database)
        rows = database.sql(f"SELECT DISTINCT hash(CAST(session_id AS VARCHAR)) AS session FROM {source}")
        return np.asarray(rows.fetchnumpy()["session"], dtype=np.uint64)


def _learned(
    name: str, url: str, shared: npt.NDArray[np.uint64], settings: Settings
) -> tuple[TransitionModel | None, pd.DataFrame]:
    """On a worker: what a file's own sessions teach, and the rows of those that it shares with others."""
    with tempfile.TemporaryDirectory(prefix="mangalib-part-") as folder, duckdb.connect() as database:
        path = Storage(url, settings).fetch(name, Path(folder))
        database.register("shared", pd.DataFrame({"session": shared}))
        source, at, has_entity = SessionLog(path, settings.session_events_max).checked(database)
        rows = f"""SELECT CAST(session_id AS VARCHAR) AS session_id, {at} AS "at", CAST(intent AS VARCHAR) AS intent,
                   {"CAST(entity AS VARCHAR)" if has_entity else "NULL::VARCHAR"} AS entity FROM {source}"""
        is_shared = "hash(CAST(session_id AS VARCHAR)) IN (SELECT session FROM shared)"
        rest = database.execute(f"SELECT * FROM ({rows}) WHERE {is_shared}").fetch_df()
        own = Path(folder) / "own.parquet"
        database.sql(f"SELECT * FROM ({rows}) WHERE NOT {is_shared}").write_parquet(str(own))
        ((count,),) = database.sql(f"SELECT count(*) FROM '{own}'").fetchall()
        return (_of_file(own, settings) if count else None), rest


def _of_rows(rows: pd.DataFrame, settings: Settings) -> TransitionModel:
    with tempfile.TemporaryDirectory(prefix="mangalib-part-") as folder:
        path = Path(folder) / "shared.parquet"
        rows.to_parquet(path)
        return _of_file(path, settings)


def _of_file(path: Path, settings: Settings) -> TransitionModel:
    log = SessionLog(path, settings.session_events_max)
    return learn(log, order=settings.transition_order, half_life_days=settings.transition_half_life_days)
