"""Values of some rows, collected batch by batch into the places where they are wanted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from headwater import label_kernels as kernels
from headwater.windows import Bool, Int64


@cache
def column_threads() -> ThreadPoolExecutor:
    """Kernels and NumPy release the interpreter's lock, so columns are gathered side by side."""
    return ThreadPoolExecutor(os.cpu_count() or 1, "headwater-columns")


class Gather:
    """One column's values, collected batch by batch into the places where they are wanted.

    absent [n]: the places that nothing comes to; None where there are none.
    """

    def __init__(self, n: int, kind: pa.DataType, absent: Bool | None = None) -> None:
        self.kind = kind
        fixed = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        stored = pa.int64() if pa.types.is_timestamp(kind) else kind if fixed else None
        self._values: Any = None
        if stored is not None and kind != pa.float16():
            self._values = np.zeros(n, stored.to_pandas_dtype())
        self._n, self._stored, self._absent = n, stored, absent
        self._null: Bool | None = None
        self._parts: list[pa.Array] = []

    def add(self, column: pa.Array, rows: Int64 | None, places: Int64) -> None:
        """Put `column[rows[i]]` at `places[i]`; without `rows`, the whole column."""
        column = column if column.type == self.kind else column.cast(self.kind)
        if self._values is None:
            self._parts.append(column if rows is None else column.take(pa.array(rows)))
            return
        numbers = column.cast(self._stored) if column.type != self._stored else column
        if column.null_count:
            if self._null is None:
                self._null = np.zeros(self._n, np.bool_)
            null = np.asarray(column.is_null())
            self._null[places] = null if rows is None else null[rows]
            numbers = numbers.fill_null(0)
        values = numbers.to_numpy(zero_copy_only=False)
        if rows is None:
            kernels.put(values, places, self._values)
        else:
            kernels.scatter(values, rows, places, self._values)

    def finish(self, places: Sequence[Int64]) -> pa.Array:
        """All values [n]; `places` are those of every `add`, or of some of them together."""
        if self._values is not None:
            null = self._null
            if self._absent is not None:
                null = self._absent if null is None else null | self._absent
            found = pa.array(self._values, self._stored, mask=null)
            return found.cast(self.kind) if self.kind != self._stored else found
        parts = pa.chunked_array(self._parts, self.kind).combine_chunks()
        place, at = np.zeros(self._n, np.int64), 0
        for some in places:
            place[some] = np.arange(at, at + len(some))
            at += len(some)
        return parts.take(pa.array(place, mask=self._absent))
