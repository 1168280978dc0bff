"""The benchmark store on S3."""

from __future__ import annotations

from collections.abc import Iterator

import boto3
import numpy as np
import pandas as pd
import pytest

from mangalib.benchmark.experiments import synthetic_history
from mangalib.benchmark.store import Store, iter_runs
from mangalib.errors import DataError
from mangalib.local.stack import Stack
from mangalib.settings import load_settings
from tests.unit.benchmark.test_store import ALWAYS, HISTORY, TODAY


@pytest.fixture
def bucket(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", stack.addresses["aws_access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", stack.addresses["aws_secret_access_key"])
    monkeypatch.setenv("MANGA_AWS_URL", stack.addresses["aws_url"])
    s3 = boto3.client("s3", endpoint_url=stack.addresses["aws_url"], region_name="us-west-2")
    s3.create_bucket(Bucket="runs", CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    yield "runs"
    for entry in s3.list_objects_v2(Bucket="runs").get("Contents", []):
        s3.delete_object(Bucket="runs", Key=entry["Key"])
    s3.delete_bucket(Bucket="runs")


def test_runs_are_stored_loaded_and_compacted_on_s3(bucket: str) -> None:
    runs = list(iter_runs(synthetic_history.samples(HISTORY, [], np.random.default_rng(1), load_settings())))
    store = Store(f"s3://{bucket}/some/prefix", load_settings())
    assert store.newest() is None
    for run in runs[:6]:
        store.append(run)
    with pytest.raises(DataError, match="exists already"):
        store.append(runs[0])
    before = store.load(*ALWAYS).samples
    assert before["run_id"].nunique() == 6
    assert store.compact(TODAY) == 6
    pd.testing.assert_frame_equal(before, store.load(*ALWAYS).samples)
    assert store.newest() == ("past-000005", runs[5]["started_at"].iloc[0])
