"""What sources have in common: times in UTC microseconds, DuckDB in UTC, the log as a table."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from headwater.arrow import TIMESTAMP
from headwater.catalog import BatchSourcePlan, StreamSourcePlan
from headwater.errors import HeadwaterError
from headwater.offline.log import delta_files

#: What a view's rows are called inside the joins, whatever its features are called.
EVENT, CREATED, SEQUENCE = "__hw_event", "__hw_created", "__hw_sequence"


def connect() -> duckdb.DuckDBPyConnection:
    """A DuckDB in memory that thinks in UTC."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    return connection


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


def read_log(stream: StreamSourcePlan) -> pa.Table:
    """The log's own rows; empty, with its columns, before the first event."""
    from headwater.offline.log import log_schema

    files = delta_files(stream.log_path)
    if not files:
        return log_schema(stream).empty_table()
    with connect() as connection:
        found = connection.sql(f"SELECT * FROM read_parquet({files!r}, union_by_name = true)")  # noqa: S608
        return normalised(found.to_arrow_table())


def parsed_times(column: pa.Array) -> pa.Array:
    """ISO 8601 text as UTC microseconds; without an offset it is UTC."""
    import pandas as pd

    times = pd.to_datetime(column.to_pandas(), utc=True, format="ISO8601")
    return pa.array(times.astype("datetime64[us, UTC]"), TIMESTAMP)
