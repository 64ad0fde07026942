"""Rows that clients push, appended to a batch source: all of them or none, and never rewritten."""

from __future__ import annotations

import fcntl
import os
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import write_deltalake

from headwater.catalog import BatchSourcePlan
from headwater.errors import HeadwaterError
from headwater.offline.sources import normalised


def append(source: BatchSourcePlan, table: pa.Table) -> None:
    """Raises HeadwaterError where the source is nothing that rows can be appended to."""
    back = {new: old for old, new in source.field_mapping.items()}
    table = table.rename_columns([back.get(name, name) for name in table.column_names])
    if source.format == "delta":
        write_deltalake(source.path, normalised(table), mode="append", schema_mode="merge")
    elif source.format == "parquet" and "://" not in source.path:
        append_parquet(Path(source.path), table)
    else:
        raise HeadwaterError(
            f"batch source {source.name!r} is {source.format} at {source.path}; rows are pushed "
            "to Delta tables and to local Parquet files or folders"
        )


def append_parquet(path: Path, table: pa.Table) -> None:
    """Add rows to a Parquet file or folder; a reader sees all of them or none."""
    if path.is_dir():
        _replace(table, path / f"{uuid.uuid4()}.parquet")
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # the folder, so that no lock file is left behind
        if path.exists():
            old = pq.read_table(path)
            table = pa.concat_tables([old, table.select(old.column_names).cast(old.schema)])
        _replace(table, path)
    finally:
        os.close(folder)


def _replace(table: pa.Table, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4()}")
    pq.write_table(table, temporary)
    temporary.replace(path)
