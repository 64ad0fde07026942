"""Training sets on Spark: labels and rows are split by a hash of the entity, and each bucket goes
through the same function as on one machine (`applyInArrow`). Needs PySpark and Java 17.

A bucket costs its executor what a training set of its size costs one machine: about 150 bytes a
label and 50 bytes an event and column, all of the bucket at once. Spark reads Parquet and Delta
by their files, so the executors must reach the same paths.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

import headwater
from headwater.arrow import TIMESTAMP, arrow_type
from headwater.catalog import Catalog, FeatureRefPlan, ViewPlan, decode, encode
from headwater.errors import HeadwaterError
from headwater.offline.checks import stored_views
from headwater.offline.files import open_delta
from headwater.offline.frames import read_labels, spaced
from headwater.offline.manifest import file_hash, make_manifest, sources, versions_of
from headwater.offline.pieces import Piece
from headwater.offline.point_in_time import Labels, Past, features_of
from headwater.offline.scan import Scan, column_types
from headwater.offline.spec import TIME_COLUMN, Request, Spec, Status
from headwater.offline.training_set import assemble, prepare
from headwater.quality.profiles import ColumnProfile

_NUMBER, _TIME, _BUCKET = "__hw_number", "__hw_time", "__hw_bucket"
#: Labels in a bucket, where nothing else is asked for.
_LABELS = 500_000


def training_set(
    catalog: Catalog, spec: Spec, session: Any = None, buckets: int = 0
) -> dict[str, Any]:
    """Make a training set on Spark; returns its manifest. `session` defaults to a local one.

    Raises HeadwaterError for label windows, logged features and folders of files, which need one
    machine, and for sources that are no files.
    """
    if spec.label_windows or spec.bootstrap or spec.rows_per_file:
        raise HeadwaterError(
            "on Spark, a training set has no label windows, logged features or rows per file; "
            "use --engine local"
        )
    start = time.monotonic()
    spark = session or local_session()
    request = spec.request(catalog)
    labels = prepare(catalog, request, read_labels(spec.entities), TIME_COLUMN, Past())
    labels = spaced(labels, spec.sample or labels.num_rows)
    buckets = buckets or max(2, -(-labels.num_rows // _LABELS))
    views = sorted({r.view for r, _ in stored_views(catalog, request.features)})
    versions = versions_of(catalog, views)
    columns: dict[tuple[str, str], Any] = {}
    for reference, names in stored_views(catalog, request.features):
        found = _view(spark, catalog, reference, names, labels, spec, versions, buckets)
        columns.update({(reference.name_to_use, n): found[n] for n in names})
    return _written(catalog, spec, request, labels, columns, views, versions, start)


def local_session(cores: str = "local[2]") -> Any:
    """A Spark session on this machine that speaks Arrow and UTC."""
    try:
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise HeadwaterError(
            "Spark is not installed: `pip install 'headwater[spark]'`, with Java 17"
        ) from error
    builder = SparkSession.builder.master(cores).appName("headwater")
    # Executors run this Python and this package, wherever they start.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    package = str(Path(headwater.__file__).resolve().parents[1])
    return (
        builder.config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.execution.arrow.pyspark.enabled", "true")
        .config("spark.executorEnv.PYTHONPATH", package)
        .config("spark.sql.shuffle.partitions", "4")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .getOrCreate()
    )


def _view(
    spark: Any, catalog: Catalog, reference: FeatureRefPlan, names: list[str], labels: pa.Table,
    spec: Spec, versions: dict[str, int], buckets: int,
) -> pa.Table:  # fmt: skip
    """One view's features [labels], in the labels' order."""
    from pyspark.sql import functions as f

    view = catalog.views[reference.view]
    if not view.join_keys:
        raise HeadwaterError(f"view {view.name!r} has no entity to split by; use --engine local")
    asked = {k.name: reference.join_key_map.get(k.name, k.name) for k in view.join_keys}
    keys = {
        k.name: labels[asked[k.name]].cast(arrow_type(k.type)).combine_chunks()
        for k in view.join_keys
    }
    frame = pa.table(
        {
            _NUMBER: np.arange(labels.num_rows),
            _TIME: labels[TIME_COLUMN].cast(TIMESTAMP).cast(pa.int64()),
            **keys,
        }
    )
    hashed = f.pmod(f.xxhash64(*(f.col(k.name).cast("string") for k in view.join_keys)), buckets)
    left = spark.createDataFrame(frame).withColumn(_BUCKET, hashed)
    right = _rows(spark, catalog, view, versions).withColumn(_BUCKET, hashed)
    schema = pa.schema(
        {_NUMBER: pa.int64(), **_kinds(view, names, right.limit(0).toArrow().schema)}
    )
    work = _work(encode(catalog), view.name, schema, spec.as_of)
    grouped = left.groupBy(_BUCKET).cogroup(right.groupBy(_BUCKET))
    joined = grouped.applyInArrow(work, spark.createDataFrame(schema.empty_table()).schema)
    found = joined.toArrow()
    return found.take(pa.array(np.argsort(found[_NUMBER].to_numpy())))


def _work(encoded: bytes, view: str, schema: pa.Schema, as_of: Any) -> Any:
    """The function of a bucket: labels and rows in, features out; it is sent to the executors."""

    def work(labels: pa.Table, rows: pa.Table) -> pa.Table:
        catalog = decode(encoded)
        plan = catalog.views[view]
        found = dict(_bucket(catalog, plan, labels, rows, schema.names[1:], as_of))
        made = pa.table({_NUMBER: labels[_NUMBER], **found})
        return made.select(schema.names).cast(schema, safe=False)

    return work


def _bucket(
    catalog: Catalog, view: ViewPlan, labels: pa.Table, rows: pa.Table, names: list[str], as_of: Any
) -> Iterator[tuple[str, pa.Array]]:
    """The same join as on one machine, over the bucket's rows."""
    kind, event, created = _times(catalog, view)
    rows = rows.drop_columns([_BUCKET])
    piece = Piece(ds.dataset(rows), {n: n for n in rows.column_names}, event, created, kind)
    columns = {k.name: k.name for k in view.join_keys}
    times = labels[_TIME].to_numpy()
    yield from features_of(Scan(view, [piece]), Labels(labels, times), columns, names, Past(as_of))


def _times(catalog: Catalog, view: ViewPlan) -> tuple[str, str, str]:
    """(kind of piece, event time column, created column) by the names in the view."""
    if view.stream:
        stream = catalog.streams[view.stream]
        mapping = stream.field_mapping
        created = mapping.get(stream.created_field, stream.created_field)
        return "log", mapping.get(stream.timestamp_field, stream.timestamp_field), created
    assert view.batch is not None  # noqa: S101 (checked when the rows were opened)
    mapping = view.batch.field_mapping
    return (
        "batch", mapping.get(view.batch.timestamp_field, view.batch.timestamp_field),
        mapping.get(view.batch.created_field, view.batch.created_field),
    )  # fmt: skip


def _rows(spark: Any, catalog: Catalog, view: ViewPlan, versions: dict[str, int]) -> Any:
    """A view's rows as Spark reads them: the files of its source."""
    if view.stream:
        stream = catalog.streams[view.stream]
        if stream.history is not None:
            raise HeadwaterError(
                f"view {view.name!r} has a history beside its log; use --engine local"
            )
        return _delta(spark, stream.log_path, versions)
    source = view.batch
    if source is None or source.format not in {"parquet", "delta"}:
        raise HeadwaterError(f"view {view.name!r} is read from no Parquet or Delta")
    if source.format == "delta":
        frame = _delta(spark, source.path, versions)
    else:
        frame = spark.read.parquet(source.path)
    for old, new in source.field_mapping.items():
        frame = frame.withColumnRenamed(old, new)
    return frame


def _delta(spark: Any, path: str, versions: dict[str, int]) -> Any:
    data = open_delta(path, versions.get(path))
    if data is None:
        raise HeadwaterError(f"there is no Delta table at {path}")
    if not data.files:
        raise HeadwaterError(f"the Delta table {path} has no files yet")
    return spark.read.parquet(*(f"{path.rstrip('/')}/{name}" for name in data.files))


def _kinds(view: ViewPlan, names: list[str], read: pa.Schema) -> dict[str, pa.DataType]:
    """The features' Arrow types: what is computed has its declared type, rows their source's."""
    kinds = {a.name: arrow_type(a.output_type) for a in view.aggregations}
    if view.kind == "row" and view.udf is None:
        rows = Piece(ds.dataset(read.empty_table()), {n: n for n in read.names}, "", "", "batch")
        kinds = column_types(view, [rows])
    elif view.kind == "row":
        kinds = {field.name: arrow_type(field.type) for field in view.features}
    return {name: kinds[name] for name in names}


def _written(
    catalog: Catalog, spec: Spec, request: Request, labels: pa.Table,
    columns: dict[tuple[str, str], Any], views: list[str], versions: dict[str, int], start: float,
) -> dict[str, Any]:  # fmt: skip
    out = Path(spec.out)
    table = assemble(catalog, request, labels, columns)
    temporary = out.with_name(f".{out.name}.new")
    pq.write_table(table, temporary, compression="zstd", compression_level=1)
    temporary.replace(out)
    profiles = {name: ColumnProfile(sketched=True) for name in table.column_names}
    for name, profile in profiles.items():
        for chunk in table[name].chunks:
            profile.add(chunk)
    status = Status(file_hash(out)[:12])
    manifest = make_manifest(
        catalog, spec, status, sources(catalog, views, versions), views, [out], profiles,
        round(time.monotonic() - start, 3),
    )  # fmt: skip
    manifest.write(out)
    return {**manifest.data, "engine": "spark"}
