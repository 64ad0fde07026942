"""Rows at rest as Arrow tables: files, Delta tables, and the events of a Kafka source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headwater.arrow import TIMESTAMP
from headwater.catalog import BatchSourcePlan, Catalog, StreamSourcePlan, ViewPlan
from headwater.errors import HeadwaterError
from headwater.offline.data_files import OFFSET, PARTITION, TOPIC
from headwater.offline.log import delta_files
from headwater.transform import transform_events

#: What a view's rows are called inside the joins, whatever its features are called.
EVENT, CREATED, SEQUENCE = "__hw_event", "__hw_created", "__hw_sequence"


def connect() -> duckdb.DuckDBPyConnection:
    """A DuckDB in memory that thinks in UTC."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def read_batch(source: BatchSourcePlan, columns: Sequence[str] | None = None) -> pa.Table:
    """A batch source's rows by the view's names; timestamps in UTC microseconds.

    columns: names in the view that are wanted, None for all. Raises HeadwaterError for missing
    files or columns.
    """
    found_in = relation(source)
    with connect() as connection:
        try:
            found = connection.sql(f"SELECT * FROM {found_in} LIMIT 0").to_arrow_table()  # noqa: S608
        except duckdb.Error as error:
            raise HeadwaterError(f"source {source.name!r} cannot be read: {error}") from error
        renamed = {name: source.field_mapping.get(name, name) for name in found.column_names}
        wanted = [n for n in found.column_names if columns is None or renamed[n] in columns]
        missing = sorted(set(columns or ()) - {renamed[n] for n in wanted})
        if missing:
            raise HeadwaterError(
                f"source {source.name!r} lacks {missing}; it has {sorted(renamed.values())}"
            )
        names = ", ".join(f"{quoted(n)} AS {quoted(renamed[n])}" for n in wanted)
        table = connection.sql(f"SELECT {names} FROM {found_in}").to_arrow_table()  # noqa: S608
    return normalised(table)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def relation(source: BatchSourcePlan) -> str:
    """A batch source as what stands behind FROM. Raises HeadwaterError where nothing is there."""
    if source.format == "query":
        return f"({source.query})"
    if source.format == "delta":
        files = delta_files(source.path)
        if not files:
            raise HeadwaterError(
                f"source {source.name!r}: there is no Delta table at {source.path}"
            )
        return f"read_parquet({files!r}, union_by_name = true)"
    path = source.path
    if "://" not in path and not Path(path).exists():
        raise HeadwaterError(f"source {source.name!r}: there is no file {path}")
    if Path(path).is_dir():
        path = f"{path.rstrip('/')}/**/*.parquet"
    reader = "read_csv" if source.format == "csv" else "read_parquet"
    return f"{reader}('{path.replace(chr(39), chr(39) * 2)}')"


def normalised(table: pa.Table) -> pa.Table:
    """Every timestamp column as UTC microseconds; a naive one is UTC."""
    for i, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type) and field.type != TIMESTAMP:
            column = table.column(i).cast(pa.timestamp("us", tz=field.type.tz), safe=False)
            if field.type.tz is None:
                column = pc.assume_timezone(column, "UTC")
            table = table.set_column(i, field.name, column.cast(TIMESTAMP))
        elif pa.types.is_date(field.type):
            column = table.column(i).cast(pa.timestamp("us"))
            table = table.set_column(i, field.name, pc.assume_timezone(column, "UTC"))
    return table


def read_events(stream: StreamSourcePlan) -> pa.Table:
    """A Kafka source's events: its history before the log's first event time, and the log."""
    name = stream.field_mapping.get(stream.timestamp_field, stream.timestamp_field)
    log = _with_sequence(read_log(stream))
    if stream.history is None:
        return log
    history = read_batch(stream.history)
    if log.num_rows:
        first = pc.min(log[name])
        history = history.filter(pc.less(history[name], first))
    history = history.append_column(SEQUENCE, pa.array(np.arange(-history.num_rows, 0), pa.int64()))
    return pa.concat_tables([history, log], promote_options="permissive")


def read_log(stream: StreamSourcePlan) -> pa.Table:
    """The log's own rows; empty, with its columns, before the first event."""
    from headwater.offline.log import log_schema

    files = delta_files(stream.log_path)
    if not files:
        return log_schema(stream).empty_table()
    with connect() as connection:
        found = connection.sql(f"SELECT * FROM read_parquet({files!r}, union_by_name = true)")  # noqa: S608
        return normalised(found.to_arrow_table())


def _with_sequence(log: pa.Table) -> pa.Table:
    """Adds what orders events of one time as online: partition, then offset."""
    if OFFSET not in log.column_names:
        return log.append_column(SEQUENCE, pa.array(np.arange(log.num_rows), pa.int64()))
    partition = log[PARTITION].cast(pa.int64()).fill_null(0).to_numpy()
    offset = log[OFFSET].fill_null(0).to_numpy()
    return log.append_column(SEQUENCE, pa.array((partition << 48) | offset)).drop_columns(
        [c for c in (TOPIC, PARTITION, OFFSET) if c in log.column_names]
    )


def view_rows(catalog: Catalog, view: ViewPlan) -> pa.Table:
    """The events or rows that a view is made of, its udf applied, with EVENT, CREATED, SEQUENCE."""
    if view.stream:
        stream = catalog.streams[view.stream]
        table = read_events(stream)
        event = stream.field_mapping.get(stream.timestamp_field, stream.timestamp_field)
        created = stream.field_mapping.get(stream.created_field, stream.created_field)
    elif view.batch is not None:
        table = read_batch(view.batch)
        table = table.append_column(SEQUENCE, pa.array(np.arange(table.num_rows), pa.int64()))
        mapping = view.batch.field_mapping
        event = mapping.get(view.batch.timestamp_field, view.batch.timestamp_field)
        created = mapping.get(view.batch.created_field, view.batch.created_field)
    else:
        raise HeadwaterError(f"view {view.name!r} has no batch source to read its past from")
    own = {EVENT: _as_time(table, event, view), SEQUENCE: table[SEQUENCE]}
    if created and created in table.column_names:
        own[CREATED] = _as_time(table, created, view)
    if view.udf is not None:
        made, rows = transform_events(view.udf, table.drop_columns([SEQUENCE]))
        own = {name: column.take(rows) for name, column in own.items()}
        table = made
    table = table.select([c for c in table.column_names if c not in own])
    for name, column in own.items():
        table = table.append_column(name, column)
    return table


def _as_time(table: pa.Table, name: str, view: ViewPlan) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise HeadwaterError(f"view {view.name!r}: its source has no column {name!r}")
    column = table[name]
    if pa.types.is_string(column.type):
        import pandas as pd

        times = pd.to_datetime(column.to_pandas(), utc=True, format="ISO8601")
        return pa.chunked_array([pa.array(times.astype("datetime64[us, UTC]"), TIMESTAMP)])
    return column.cast(TIMESTAMP)
