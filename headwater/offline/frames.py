"""Entity frames, whatever they come as, as one Arrow table of labels with times in UTC."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

from headwater.arrow import TIMESTAMP, arrow_type
from headwater.catalog import Catalog
from headwater.errors import HeadwaterError
from headwater.offline.files import filesystem
from headwater.offline.scan import register_sources
from headwater.offline.sources import connect, normalised, parsed_times
from headwater.offline.spec import TIME_COLUMN


def label_table(frame: Any, catalog: Catalog | None = None) -> pa.Table:
    """pandas, polars, Arrow, a Parquet file's path or SQL for DuckDB, as an Arrow table.

    SQL may name the catalogue's views and file sources as tables. Raises HeadwaterError for what
    cannot be read.
    """
    if isinstance(frame, pa.Table):
        return normalised(frame)
    if isinstance(frame, str | Path):
        text = str(frame)
        if text.endswith(".parquet") or ("\n" not in text and Path(text).is_dir()):
            return read_labels(text)
        return normalised(_query(text, catalog))
    if hasattr(frame, "to_arrow"):  # polars, DuckDB
        return normalised(frame.to_arrow())
    import pandas as pd

    if not isinstance(frame, pd.DataFrame):
        raise HeadwaterError(
            f"an entity frame cannot be a {type(frame).__name__}: give pandas, polars, Arrow, "
            "the path of a Parquet file, or SQL"
        )
    twice = sorted({str(c) for c in frame.columns[frame.columns.duplicated()]})
    if twice:
        raise HeadwaterError(f"the labels have {twice} twice; rename one of each")
    try:
        return normalised(pa.Table.from_pandas(frame, preserve_index=False))
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise HeadwaterError(f"the entity frame mixes types in a column: {error}") from error


def read_labels(path: str) -> pa.Table:
    """Labels in a Parquet file or folder. Raises HeadwaterError where there are none."""
    try:
        store, inner = filesystem(path)
        if store.get_file_info(inner).is_file:
            # A dataset has no word for a column that is there twice, which is refused later.
            return normalised(pq.ParquetFile(inner, filesystem=store).read())
        return normalised(pq.read_table(inner, filesystem=store))
    except (OSError, pa.ArrowInvalid) as error:
        raise HeadwaterError(f"the labels in {path} cannot be read: {error}") from error


def spaced(labels: pa.Table, most: int) -> pa.Table:
    """At most so many of the labels, evenly spaced, in their order."""
    if most >= labels.num_rows:
        return labels
    return labels.take(pa.array(np.linspace(0, labels.num_rows - 1, most).astype(np.int64)))


def read_csv(data: bytes, keys: Mapping[str, str]) -> pa.Table:
    """Labels of a CSV file with a line of names; keys: column -> value type, so that "007" stays
    what it is where a key is text. Raises HeadwaterError for what cannot be read."""
    types = {name: arrow_type(kind) for name, kind in keys.items()}
    try:
        return csv.read_csv(
            pa.BufferReader(data), convert_options=csv.ConvertOptions(column_types=types)
        )
    except (pa.ArrowInvalid, pa.ArrowKeyError, pa.ArrowNotImplementedError) as error:
        raise HeadwaterError(f"the labels are no CSV with the right keys: {error}") from error


def _query(text: str, catalog: Catalog | None) -> pa.Table:
    with connect() as connection:
        if catalog is not None:
            register_sources(catalog, text, connection)
        try:
            return connection.sql(text).to_arrow_table()
        except Exception as error:
            raise HeadwaterError(f"the entity frame's SQL failed: {error}") from error


def time_column(labels: pa.Table) -> str:
    """`event_timestamp`, or the one column of times. Raises HeadwaterError where it is unclear."""
    if TIME_COLUMN in labels.column_names:
        return TIME_COLUMN
    times = [f.name for f in labels.schema if pa.types.is_timestamp(f.type)]
    if len(times) != 1:
        raise HeadwaterError(
            f"the labels have no {TIME_COLUMN!r} and {len(times)} other columns of times "
            f"({times}); name the one that counts {TIME_COLUMN!r}"
        )
    return str(times[0])


def with_time(labels: pa.Table, name: str) -> pa.Table:
    """Event times as UTC microseconds; text in them is ISO 8601.

    Raises HeadwaterError for a column that holds no times, or nulls.
    """
    column = labels[name]
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        try:
            column = parsed_times(column)
        except ValueError as error:
            raise HeadwaterError(f"{name} holds text that is no ISO 8601 time: {error}") from error
    if not pa.types.is_timestamp(column.type):
        raise HeadwaterError(
            f"{name} is {column.type}; it must be a timestamp (naive is UTC) or ISO 8601 text"
        )
    if column.null_count:
        raise HeadwaterError(f"{name} is null in {column.null_count} labels; drop or fill them")
    at = labels.column_names.index(name)
    return labels.set_column(at, name, pc.cast(column, TIMESTAMP))
