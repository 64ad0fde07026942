"""The distinct keys of some labels as numbers from 0, and the same numbers for a view's rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from headwater import label_kernels as kernels
from headwater.errors import HeadwaterError
from headwater.gather import numbers_of
from headwater.windows import Int64

#: Largest table of integer keys that is looked up directly, in entries a label.
_TABLE = 8


class LabelKeys:
    """Numbers for key tuples. `codes` [labels]: each label's, -1 where a part of it is null."""

    def __init__(self, columns: Sequence[pa.ChunkedArray], labels: int) -> None:
        self._parts = [_Part(column.combine_chunks(), labels) for column in columns]
        codes = np.zeros(labels, np.int64)
        known = np.ones(labels, np.bool_)
        self._mixed: list[Int64] = []
        for i, part in enumerate(self._parts):
            codes = codes * max(len(part.values), 1) + np.maximum(part.labels, 0)
            known &= part.labels >= 0
            if i:
                mixed, codes = np.unique(codes, return_inverse=True)
                self._mixed.append(mixed)
        self.codes: Int64 = np.where(known, codes, -1)
        self.count = int(codes.max(initial=-1)) + 1

    def of(self, columns: Sequence[pa.Array], rows: int) -> Int64:
        """The number of each row's key, -1 where no label has it or a part of it is null."""
        codes: Int64 = np.zeros(rows, np.int64)
        for i, (part, column) in enumerate(zip(self._parts, columns, strict=True)):
            found = part.find(column)
            if not i:
                codes = found
                continue
            absent = (codes < 0) | (found < 0)
            codes = codes * max(len(part.values), 1) + np.maximum(found, 0)
            mixed = self._mixed[i - 1]
            at = np.minimum(np.searchsorted(mixed, codes), max(len(mixed) - 1, 0))
            absent |= mixed[at] != codes if len(mixed) else True
            codes = np.where(absent, -1, at)
        return codes


class _Part:
    """One join key: its distinct values among the labels."""

    def __init__(self, column: pa.Array, labels: int) -> None:
        self.type = column.type
        self.labels: Int64
        self._low = 0
        self._table: NDArray[np.int32] | None = None
        if pa.types.is_integer(self.type) and len(column) > column.null_count:
            least, most = pc.min_max(column).values()
            self._low, high = int(least.as_py()), int(most.as_py())
            if high - self._low <= max(_TABLE * labels, 1 << 20) and high <= kernels.I64_MAX:
                self._number(column, high - self._low + 1)
                return
        encoded = column.dictionary_encode()
        self.values = encoded.dictionary
        self.labels = encoded.indices.fill_null(-1).to_numpy().astype(np.int64)

    def _number(self, column: pa.Array, size: int) -> None:
        """Number integers that lie close together, by a table of them."""
        self._table = np.full(size, -1, np.int32)
        filled = column.fill_null(self._low) if column.null_count else column
        self.labels = np.empty(len(column), np.int64)
        count = kernels.number(numbers_of(filled, pa.int64()), self._low, self._table, self.labels)
        if column.null_count:
            self.labels[np.asarray(column.is_null())] = -1
        numbers = np.empty(count, np.int64)
        known = np.flatnonzero(self._table >= 0)
        numbers[self._table[known]] = known + self._low
        self.values = pa.array(numbers).cast(self.type)

    def find(self, column: pa.Array) -> Int64:
        if column.type != self.type:
            try:
                column = column.cast(self.type)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                raise HeadwaterError(
                    f"a key is {self.type} in the labels and {column.type} in the rows: {error}"
                ) from error
        if self._table is None:
            found = pc.index_in(column, value_set=self.values)
            places: Int64 = found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
            return places
        numbers = column.cast(pa.int64())
        out = np.empty(len(numbers), np.int64)
        values = numbers.fill_null(0) if numbers.null_count else numbers
        kernels.lookup(self._table, self._low, values.to_numpy(), out)
        if numbers.null_count:
            out[np.asarray(numbers.is_null())] = -1
        return out
