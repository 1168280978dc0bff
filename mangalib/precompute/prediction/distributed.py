"""Trains a transition model on a log of many files, in a folder or on S3, on the workers of a Dask cluster.

Each file is one task. Sessions that span several files are set aside and counted together at the end, so the model equals
the one trained on a single file of all rows. Results are fetched as they complete; the tasks of a worker that dies are
run again by another.
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
from mangalib.precompute.prediction.training import train_on_log
from mangalib.precompute.prediction.transition_model import TransitionModel
from mangalib.settings import PredictionSettings, TrainingSettings
from mangalib.storage import Storage

Result = TypeVar("Result")


def train_partitioned(cluster: Cluster, url: str, settings: TrainingSettings, *, progress: bool) -> TransitionModel:
    """Train on all logs under ``url``, which the workers must be able to reach; raises ``DataError`` naming the wrong file."""
    names = [name for name in Storage(url, settings).names() if Path(name).suffix.lower() in READERS]
    if not names:
        raise DataError(f"{url}: no session log; expected files that end in {', '.join(sorted(READERS))}")
    sessions = _map_files(cluster, "sessions", names, partial(_sessions_of_file, url=url, settings=settings), progress)
    count = Counter(np.concatenate(list(sessions.values())).tolist())
    spanning = np.array(sorted(session for session, files in count.items() if files > 1), dtype=np.uint64)
    task = partial(_train_on_part, url=url, spanning=spanning, settings=settings)
    parts = _map_files(cluster, "transitions", names, task, progress)
    models = [model for model, _ in parts.values() if model is not None]
    rest = pd.concat([rows for _, rows in parts.values()])
    if len(rest):
        models.append(_train_on_rows(rest, settings))
    return TransitionModel.merged(models)


def _map_files(
    cluster: Cluster, what: str, names: list[str], task: Callable[[str], Result], progress: bool
) -> dict[str, Result]:
    futures = cluster.map(task, names, key=[f"{what}-{uuid.uuid4().hex}" for _ in names], pure=False)
    name_of = dict(zip((future.key for future in futures), names, strict=True))
    completed = tqdm(
        as_completed(futures, with_results=True), desc=what, total=len(names), disable=not progress, leave=False
    )
    return {name_of[future.key]: result for future, result in completed}


def _sessions_of_file(name: str, url: str, settings: TrainingSettings) -> npt.NDArray[np.uint64]:
    """Runs on a worker: the hashed ids of the sessions in a file."""
    with tempfile.TemporaryDirectory(prefix="mangalib-part-") as folder, duckdb.connect() as database:
        log = SessionLog(Storage(url, settings).fetch(name, Path(folder)), settings.session_events_max)
        source, _, _ = log.sql_source(database)
        rows = database.sql(f"SELECT DISTINCT hash(CAST(session_id AS VARCHAR)) AS session FROM {source}")
        return np.asarray(rows.fetchnumpy()["session"], dtype=np.uint64)


def _train_on_part(
    name: str, url: str, spanning: npt.NDArray[np.uint64], settings: TrainingSettings
) -> tuple[TransitionModel | None, pd.DataFrame]:
    """Runs on a worker: the model of the sessions that are in this file alone, and the rows of the spanning ones."""
    with tempfile.TemporaryDirectory(prefix="mangalib-part-") as folder, duckdb.connect() as database:
        path = Storage(url, settings).fetch(name, Path(folder))
        database.register("spanning", pd.DataFrame({"session": spanning}))
        source, at, has_entity = SessionLog(path, settings.session_events_max).sql_source(database)
        rows = f"""SELECT CAST(session_id AS VARCHAR) AS session_id, {at} AS "at", CAST(intent AS VARCHAR) AS intent,
                   {"CAST(entity AS VARCHAR)" if has_entity else "NULL::VARCHAR"} AS entity FROM {source}"""
        is_spanning = "hash(CAST(session_id AS VARCHAR)) IN (SELECT session FROM spanning)"
        rest = database.execute(f"SELECT * FROM ({rows}) WHERE {is_spanning}").fetch_df()
        own = Path(folder) / "own.parquet"
        database.sql(f"SELECT * FROM ({rows}) WHERE NOT {is_spanning}").write_parquet(str(own))
        ((count,),) = database.sql(f"SELECT count(*) FROM '{own}'").fetchall()
        return (_train_on_file(own, settings) if count else None), rest


def _train_on_rows(rows: pd.DataFrame, settings: PredictionSettings) -> TransitionModel:
    with tempfile.TemporaryDirectory(prefix="mangalib-part-") as folder:
        path = Path(folder) / "spanning.parquet"
        rows.to_parquet(path)
        return _train_on_file(path, settings)


def _train_on_file(path: Path, settings: PredictionSettings) -> TransitionModel:
    log = SessionLog(path, settings.session_events_max)
    return train_on_log(log, order=settings.transition_order, half_life_days=settings.transition_half_life_days)
