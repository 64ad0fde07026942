"""Values of some rows, collected batch by batch into the places where they are wanted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headwater import label_kernels as kernels
from headwater.windows import Bool, Int64


@cache
def column_threads() -> ThreadPoolExecutor:
    """Kernels and NumPy release the interpreter's lock, so columns are gathered side by side."""
    return ThreadPoolExecutor(os.cpu_count() or 1, "headwater-columns")


def numbers_of(column: pa.Array, kind: pa.DataType) -> NDArray[Any]:
    """A column of numbers or times as numbers, without a copy where it can be; nulls are any."""
    if column.type != kind:
        column = column.cast(kind)
    if not len(column):
        return np.empty(0, kind.to_pandas_dtype())
    values = np.frombuffer(column.buffers()[1], kind.to_pandas_dtype())
    return values[column.offset : column.offset + len(column)]


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
        self._lock = Lock()
        self._parts: list[pa.Array] = []

    @property
    def is_numeric(self) -> bool:
        """Whether values are put in place as they come; then several threads may add."""
        return self._values is not None

    def add(self, column: pa.Array, rows: Int64 | None, places: Int64) -> None:
        """Put `column[rows[i]]` at `places[i]`; without `rows`, the whole column.

        A negative place leaves a number of a whole column out.
        """
        column = column if column.type == self.kind else column.cast(self.kind)
        if self._values is None:
            self._parts.append(column if rows is None else column.take(pa.array(rows)))
            return
        values = numbers_of(column, self._stored)
        if not column.null_count:
            if rows is None:
                kernels.put(values, places, self._values)
            else:
                kernels.scatter(values, rows, places, self._values)
            return
        with self._lock:
            if self._null is None:
                self._null = np.zeros(self._n, np.bool_)
        null = np.asarray(column.is_null())
        if rows is None:
            kernels.put_nulls(values, null, places, self._values, self._null)
        else:
            kernels.scatter(values, rows, places, self._values)
            kernels.scatter(null, rows, places, self._null)

    def finish(self, places: Sequence[Int64]) -> pa.Array:
        """All values [n]; `places` are those of every `add`, or of some of them together."""
        if self._values is not None:
            null = self._null
            if self._absent is not None:
                null = self._absent if null is None else null | self._absent
            found = pa.array(self._values, self._stored, mask=null)
            return found.cast(self.kind) if self.kind != self._stored else found
        place, at = np.zeros(self._n, np.int64), 0
        for some in places:
            place[some] = np.arange(at, at + len(some))
            at += len(some)
        return self.ordered(place)

    def ordered(self, rows: Int64) -> pa.Array:
        """For what is not numeric: the value of `rows[i]` of all that was added, at place i."""
        parts = pa.chunked_array(self._parts, self.kind).combine_chunks()
        return parts.take(pa.array(rows, mask=self._absent))
