"""The same training set on Spark, on a local cluster of two executors."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest

from headwater.catalog import Catalog
from headwater.errors import HeadwaterError
from headwater.offline.jobs import Job
from headwater.offline.spec import Spec
from tests.integration.test_training_set_job import catalog, spec

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


def test_what_spark_cannot_do_is_refused(catalog: Catalog, spec: Spec) -> None:
    from headwater.offline.spark import training_set

    with pytest.raises(HeadwaterError, match="--engine local"):
        training_set(catalog, msgspec.structs.replace(spec, rows_per_file=10))
