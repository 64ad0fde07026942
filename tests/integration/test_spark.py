"""The same training set on Spark, on a local cluster of two executors."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headwater.catalog import BatchSourcePlan, Catalog, FieldPlan, ViewPlan
from headwater.errors import HeadwaterError
from headwater.offline.jobs import Job
from headwater.offline.spec import Spec
from tests.integration.test_training_set_job import KEY, at, catalog, spec

__all__ = ["catalog", "spec"]  # fixtures


@pytest.fixture(scope="module")
def session() -> Iterator[Any]:
    if not shutil.which("java"):
        pytest.skip("Spark needs Java 17")
    from headwater.offline.spark import local_session

    spark = local_session("local-cluster[2,1,1024]")
    yield spark
    spark.stop()


@pytest.mark.filterwarnings("ignore")  # PySpark's own, of pandas and of sockets
@pytest.mark.parametrize("as_of", ["event", "arrival"])
def test_spark_makes_the_same_values(
    catalog: Catalog, spec: Spec, session: Any, as_of: Any
) -> None:
    from headwater.offline.spark import training_set

    spec = msgspec.structs.replace(spec, as_of=as_of)
    Job(catalog, spec).run()
    wanted = pq.read_table(spec.out)
    other = msgspec.structs.replace(spec, out=spec.out + ".spark")
    manifest = training_set(catalog, other, session, buckets=4)
    found = pq.read_table(other.out)
    assert manifest["rows"] == 300
    assert found.column_names == wanted.column_names
    assert found.to_pylist() == wanted.to_pylist()


@pytest.mark.filterwarnings("ignore")  # PySpark's own, of pandas and of sockets
def test_columns_of_many_types(session: Any, tmp_path: Path) -> None:
    from headwater.offline.spark import training_set

    rows = {
        "price": pa.array([Decimal("1.25"), None], pa.decimal128(10, 2)),
        "exact": pa.array([Decimal("1.25"), None], pa.decimal128(10, 2)),
        "whole": pa.array([1, None], pa.int64()),
        "small": pa.array([200, None], pa.uint8()),
        "day": pa.array([date(2026, 1, 1), None]),
        "tags": pa.array([[1, 2], None], pa.list_(pa.int32())),
        "blob": [b"a", None],
        "text": pa.array(["a", None], pa.large_string()),
    }
    kinds = {
        "price": "DOUBLE", "exact": "DECIMAL", "whole": "FLOAT", "small": "INT64",
        "day": "UNIX_TIMESTAMP", "tags": "INT64_LIST", "blob": "BYTES", "text": "STRING",
    }  # fmt: skip
    pq.write_table(pa.table({"id": [1, 2], "ts": at(0, 0), **rows}), tmp_path / "rows.parquet")
    labels = pa.table({"id": [2, 1, 3], "event_timestamp": at(1, 1, 1)})
    pq.write_table(labels, tmp_path / "labels.parquet")
    source = BatchSourcePlan("rows", "parquet", str(tmp_path / "rows.parquet"), "ts")
    fields = tuple(FieldPlan(name, kind) for name, kind in kinds.items())
    view = ViewPlan("v", "row", KEY, fields, batch=source)
    catalog = Catalog("p", "v1", "", "", views={"v": view})
    spec = Spec(str(tmp_path / "labels.parquet"), str(tmp_path / "out.parquet"), features=("v:*",))
    Job(catalog, spec).run()
    other = msgspec.structs.replace(spec, out=spec.out + ".spark")
    training_set(catalog, other, session, buckets=2)
    wanted, found = pq.read_table(spec.out), pq.read_table(other.out)
    assert found.to_pylist() == wanted.to_pylist()
    assert wanted["price"].to_pylist() == [None, 1.25, None]
    assert wanted["exact"].to_pylist() == [None, Decimal("1.25"), None]


def test_what_spark_cannot_do_is_refused(catalog: Catalog, spec: Spec) -> None:
    from headwater.offline.spark import training_set

    with pytest.raises(HeadwaterError, match="--engine local"):
        training_set(catalog, msgspec.structs.replace(spec, rows_per_file=10))
