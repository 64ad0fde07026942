"""Values of some rows, collected batch by batch into the places where they are wanted."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from headwater import label_kernels as kernels
from headwater.windows import Int64


@cache
def gather_threads() -> ThreadPoolExecutor:
    """Kernels and NumPy release the interpreter's lock, so columns are gathered side by side."""
    return ThreadPoolExecutor(os.cpu_count() or 1, "headwater-gather")


class Gather:
    """One column's values, collected batch by batch into the places where they are wanted."""

    def __init__(self, n: int, kind: pa.DataType) -> None:
        self.kind = kind
        fixed = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        stored = pa.int64() if pa.types.is_timestamp(kind) else kind if fixed else None
        self._values: Any = None
        if stored is not None and kind != pa.float16():
            self._values = np.zeros(n, stored.to_pandas_dtype())
        self._stored = stored
        self._null = np.ones(n, np.bool_)
        self._parts: list[pa.Array] = []

    def add(self, column: pa.Array, rows: Int64, places: Int64) -> None:
        column = column if column.type == self.kind else column.cast(self.kind)
        if self._values is None:
            self._parts.append(column.take(pa.array(rows)))
            return
        numbers = column.cast(self._stored) if column.type != self._stored else column
        if column.null_count:
            self._null[places] = np.asarray(column.is_null())[rows]
            numbers = numbers.fill_null(0)
        else:
            self._null[places] = False
        kernels.scatter(numbers.to_numpy(zero_copy_only=False), rows, places, self._values)

    def finish(self, order: Int64, wanted: Int64) -> pa.Array:
        if self._values is not None:
            mask = self._null if self._null.any() else None
            found = pa.array(self._values, self._stored, mask=mask)
            return found.cast(self.kind) if self.kind != self._stored else found
        parts = pa.chunked_array(self._parts, self.kind).combine_chunks()
        place = np.zeros(len(order), np.int64)
        first = int(np.searchsorted(wanted, 0))
        place[order[first:]] = np.arange(len(order) - first)
        absent = np.zeros(len(order), np.bool_)
        absent[order[:first]] = True
        return parts.take(pa.array(place, mask=absent))
