"""Rows that clients push, appended to a view's batch source: all of them or none."""

from __future__ import annotations

import pyarrow as pa
from deltalake import write_deltalake

from headwater.catalog import BatchSourcePlan
from headwater.errors import HeadwaterError
from headwater.offline.files import append_file, open_target, storage_options
from headwater.offline.sources import normalised


def append(source: BatchSourcePlan, table: pa.Table) -> None:
    """Raises HeadwaterError where the source is nothing that rows can be appended to."""
    back = {new: old for old, new in source.field_mapping.items()}
    table = table.rename_columns([back.get(name, name) for name in table.column_names])
    if source.format == "delta":
        write_deltalake(
            source.path, normalised(table), mode="append", schema_mode="merge",
            storage_options=storage_options(source.path, source.s3_endpoint),
        )  # fmt: skip
    elif source.format == "parquet":
        append_file(table, *open_target(source.path, source.s3_endpoint))
    else:
        raise HeadwaterError(
            f"batch source {source.name!r} is a {source.format}; rows are pushed to Delta tables "
            "and to Parquet files or folders"
        )
