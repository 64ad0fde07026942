"""Rows from every kind of source: folders, hive partitions, Delta, CSV, queries, and a real S3."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from headwater.catalog import (
    BatchSourcePlan,
    Catalog,
    FeatureRefPlan,
    FieldPlan,
    JoinKeyPlan,
    ViewPlan,
)
from headwater.errors import HeadwaterError
from headwater.offline.files import append_file, open_target
from headwater.offline.point_in_time import Past
from headwater.offline.training_set import build

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
US = pa.timestamp("us", tz="UTC")
ROWS = pa.table(
    {
        "id": pa.array([1, 2, 1, 2], pa.int64()),
        "x": pa.array([10, 20, 11, 21], pa.int64()),
        "name": ["a", "b", None, "d"],
        "ts": pa.array([T0, T0, T0 + HOUR, T0 + HOUR], US),
    }
)
LABELS = pa.table({"id": [2, 1, 3, 2], "event_timestamp": pa.array([T0, T0 + 2 * HOUR] * 2, US)})
WANTED = [20, 11, None, 21]


def joined(source: BatchSourcePlan, past: Past = Past(), **views: ViewPlan) -> list[Any]:  # noqa: B008
    view = ViewPlan(
        "v", "row", (JoinKeyPlan("id", "INT64"),), (FieldPlan("x", "INT64"),), batch=source
    )
    catalog = Catalog("p", "", "", "", views={"v": view, **views})
    table = build(catalog, [FeatureRefPlan("v", ("x",))], LABELS, past=past)
    values: list[Any] = table["x"].to_pylist()
    return values


def source(kind: Any, path: Path | str, **more: Any) -> BatchSourcePlan:
    return BatchSourcePlan("rows", kind, str(path), "ts", **more)


def test_a_folder_of_files_whose_columns_grew(tmp_path: Path) -> None:
    pq.write_table(ROWS.slice(0, 2).drop_columns(["name"]), tmp_path / "a.parquet")
    pq.write_table(ROWS.slice(2, 2), tmp_path / "b.parquet")
    assert joined(source("parquet", tmp_path)) == WANTED


def test_hive_partitions_are_columns(tmp_path: Path) -> None:
    ds.write_dataset(
        ROWS, tmp_path, format="parquet",
        partitioning=ds.partitioning(pa.schema([("id", pa.int64())]), flavor="hive"),
    )  # fmt: skip
    assert (tmp_path / "id=1").is_dir()
    assert joined(source("parquet", tmp_path)) == WANTED


def test_a_delta_table_at_its_newest_version_or_an_older_one(tmp_path: Path) -> None:
    write_deltalake(tmp_path, ROWS.slice(0, 2), partition_by=["id"])
    write_deltalake(tmp_path, ROWS.slice(2, 2), mode="append")
    assert joined(source("delta", tmp_path)) == WANTED
    assert joined(source("delta", tmp_path), Past(versions={str(tmp_path): 0})) == [
        20,
        10,
        None,
        20,
    ]


def test_csv(tmp_path: Path) -> None:
    pa.csv.write_csv(ROWS, tmp_path / "rows.csv")
    assert joined(source("csv", tmp_path / "rows.csv")) == WANTED


def test_a_query_over_other_sources(tmp_path: Path) -> None:
    pq.write_table(ROWS, tmp_path / "rows.parquet")
    raw = BatchSourcePlan("raw", "parquet", str(tmp_path / "rows.parquet"), "ts")
    query = source("query", "", query="SELECT id, x * 2 AS x, ts FROM raw", tables=(raw,))
    assert joined(query) == [40, 22, None, 42]
    wrong = source("query", "", query="SELECT id FROM row", tables=(raw,))
    with pytest.raises(HeadwaterError, match=r"(?s)its query failed: .*its tables are \['raw'\]"):
        joined(wrong)


def test_renamed_columns(tmp_path: Path) -> None:
    pq.write_table(ROWS.rename_columns(["key", "value", "name", "at"]), tmp_path / "r.parquet")
    plan = BatchSourcePlan("rows", "parquet", str(tmp_path / "r.parquet"), "at",
                           field_mapping={"key": "id", "value": "x"})  # fmt: skip
    assert joined(plan) == WANTED


def test_what_is_declared_a_float_is_one_whatever_the_file_has(tmp_path: Path) -> None:
    """As online: a model that was trained on decimals could not be given what is served."""
    numbers = {
        "exact": pa.array([Decimal("1.25"), None], pa.decimal128(12, 2)),
        "whole": pa.array([1, None], pa.int64()),
        "money": pa.array([Decimal("1.25"), None], pa.decimal128(12, 2)),
    }
    rows = pa.table({"id": [1, 2], "ts": pa.array([T0, T0], US), **numbers})
    pq.write_table(rows, tmp_path / "rows.parquet")
    types = {"exact": "FLOAT", "whole": "DOUBLE", "money": "DECIMAL"}
    fields = tuple(FieldPlan(name, kind) for name, kind in types.items())
    plan = source("parquet", tmp_path / "rows.parquet")
    view = ViewPlan("v", "row", (JoinKeyPlan("id", "INT64"),), fields, batch=plan)
    catalog = Catalog("p", "", "", "", views={"v": view})
    table = build(catalog, [FeatureRefPlan("v", tuple(types))], LABELS)
    assert table["exact"].to_pylist() == [None, 1.25, None, None]
    assert table["exact"].type == table["whole"].type == pa.float64()
    assert table["whole"].to_pylist() == [None, 1.0, None, None]
    assert table["money"].to_pylist() == [None, Decimal("1.25"), None, None]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_times_of_any_unit_and_zone(tmp_path: Path, unit: str, zone: str | None) -> None:
    times = ROWS["ts"].cast(pa.timestamp(unit, "UTC")).cast(pa.timestamp(unit, zone))
    pq.write_table(ROWS.set_column(3, "ts", times), tmp_path / "rows.parquet")
    assert joined(source("parquet", tmp_path / "rows.parquet")) == WANTED


def test_a_missing_source_or_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(HeadwaterError, match=r"there is no file .*nowhere"):
        joined(source("parquet", tmp_path / "nowhere"))
    with pytest.raises(HeadwaterError, match="there is no Delta table"):
        joined(source("delta", tmp_path / "nowhere"))
    pq.write_table(ROWS.drop_columns(["x"]), tmp_path / "rows.parquet")
    with pytest.raises(HeadwaterError, match=r"lacks \['x'\]"):
        joined(source("parquet", tmp_path / "rows.parquet"))
    with pytest.raises(HeadwaterError, match="no column 'when'"):
        joined(BatchSourcePlan("rows", "parquet", str(tmp_path / "rows.parquet"), "when"))


@contextlib.contextmanager
def object_store(*command: str) -> Iterator[str]:
    """The URL of a server that is told its port last."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", *command, str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with object_store("moto.server", "-p") as url:
        yield url


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    for name, value in (("ACCESS_KEY_ID", "test"), ("SECRET_ACCESS_KEY", "test"),
                        ("REGION", "us-east-1")):  # fmt: skip
        monkeypatch.setenv(f"AWS_{name}", value)
    store = pafs.S3FileSystem(
        endpoint_override=s3.removeprefix("http://"), scheme="http", allow_bucket_creation=True
    )
    store.create_dir("lake")
    yield s3, "s3://lake"


def test_parquet_in_a_bucket(bucket: tuple[str, str]) -> None:
    endpoint, root = bucket
    store, path = open_target(f"{root}/folder/rows.parquet", endpoint)
    pq.write_table(ROWS, path, filesystem=store)
    for place in (f"{root}/folder/rows.parquet", f"{root}/folder"):
        assert joined(source("parquet", place, s3_endpoint=endpoint)) == WANTED


def test_a_folder_in_a_bucket_takes_appended_files_and_a_single_object_does_not(
    bucket: tuple[str, str],
) -> None:
    endpoint, root = bucket
    store, path = open_target(f"{root}/log/first.parquet", endpoint)
    pq.write_table(ROWS.slice(0, 2), path, filesystem=store)
    append_file(ROWS.slice(2, 2), *open_target(f"{root}/log", endpoint))
    assert joined(source("parquet", f"{root}/log", s3_endpoint=endpoint)) == WANTED
    with pytest.raises(HeadwaterError, match="make it a folder"):
        append_file(ROWS, store, path)


def test_delta_in_a_bucket_by_the_environment_s_endpoint(
    bucket: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint, root = bucket
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    write_deltalake(
        f"{root}/delta", ROWS,
        storage_options={"AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": "true"},
    )  # fmt: skip
    assert joined(source("delta", f"{root}/delta")) == WANTED


def test_parquet_in_a_google_bucket_by_the_emulator_s_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    emulator = ("gcp_storage_emulator", "start", "--in-memory", "--default-bucket=lake")
    with object_store(*emulator, "--host=127.0.0.1", "--port") as url:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        store, path = open_target("gs://lake/folder/first.parquet")
        pq.write_table(ROWS.slice(0, 2), path, filesystem=store)
        append_file(ROWS.slice(2, 2), *open_target("gs://lake/folder"))
        assert joined(source("parquet", "gs://lake/folder")) == WANTED
        with pytest.raises(HeadwaterError, match="there is no file gs://lake/nothing"):
            joined(source("parquet", "gs://lake/nothing"))
