"""Columns as Arrow holds them: types of Feast's value types, and columns for the kernels. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from headwater.catalog import ColumnKind

TIMESTAMP = pa.timestamp("us", tz="UTC")
ARROW_TYPES = {
    "INT32": pa.int32(),
    "INT64": pa.int64(),
    "BOOL": pa.bool_(),
    "UNIX_TIMESTAMP": TIMESTAMP,
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "BYTES": pa.binary(),
}


def arrow_type(value_type: str) -> pa.DataType:
    """The Arrow type of a Feast value type's column; text where nothing closer exists."""
    for suffix in ("_LIST", "_SET"):
        if value_type.endswith(suffix):
            return pa.list_(arrow_type(value_type.removesuffix(suffix)))
    return ARROW_TYPES.get(value_type, pa.string())


def key_type(kind: str) -> pa.DataType:
    """A key's Arrow type; a timestamp is a number, as in requests."""
    return pa.int64() if kind == "UNIX_TIMESTAMP" else arrow_type(kind)


def array_of(values: list[Any], kind: str) -> pa.Array:
    """Plain values of a Feast value type; times are microseconds. What has no Arrow type must be
    texts."""
    target = arrow_type(kind)
    if pa.types.is_timestamp(target):
        return pa.array(values, pa.int64()).cast(target)
    if pa.types.is_list(target) and pa.types.is_timestamp(target.value_type):
        return pa.array(values, pa.list_(pa.int64())).cast(target)
    return pa.array(values, target)


def numpy_column(
    column: pa.ChunkedArray | pa.Array, kind: ColumnKind
) -> tuple[Any, np.ndarray[Any, Any]]:
    """An Arrow column as (values, valid) for `headwater.windows`: int64, float64 or a list."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    valid = np.asarray(array.is_valid())
    if kind == "object":
        return array.to_pylist(), valid
    target = pa.int64() if kind == "int" else pa.float64()
    filled = array.cast(target).fill_null(0)
    return filled.to_numpy(zero_copy_only=False), valid
