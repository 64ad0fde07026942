"""Batches of plain JSON objects as Arrow columns, by the loops of `json_kernels`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headwater.arrow import arrow_type
from headwater.catalog import FieldPlan
from headwater.interning import texts
from ingest.decoders import json_kernels as jk
from ingest.decoders.columns import Cells, Epochs
from ingest.records import Int64, Records

_KINDS = {
    "INT32": jk.INT32, "INT64": jk.INT64, "FLOAT": jk.FLOAT, "DOUBLE": jk.DOUBLE, "BOOL": jk.BOOL,
    "STRING": jk.STRING, "UNIX_TIMESTAMP": jk.TIME,
}  # fmt: skip
#: Of so many messages one may be odd: each of them is read alone, which costs several times more.
_ODD = 8


class Plain(NamedTuple):
    """cells: of each field the values of the plain messages. kept, odd: which these are, and which
    are not plain, ascending.
    """

    cells: list[Cells | Epochs | pa.Array]
    kept: Int64
    odd: list[int]


class PlainReader:
    """Reads a source's fields from messages that are plain, see `json_kernels`."""

    def __init__(self, fields: Sequence[FieldPlan]) -> None:
        self._fields = fields
        self._kinds = np.array([_KINDS.get(f.type, jk.OTHER) for f in fields], np.int64)
        self._names = texts([field.name.encode() for field in fields])

    def read(self, records: Records) -> Plain | None:
        """None where many messages are not plain, or times are spelled in two ways."""
        n, data = len(records), np.frombuffer(records.data, np.uint8)
        cells = np.empty((len(self._fields), n), np.int64)
        sizes = np.empty((len(self._fields), n), np.int32)
        odd, most = np.zeros(n, np.bool_), n // _ODD
        found = jk.read(
            data, records.value_at, records.value_size, self._kinds, *self._names, most, cells,
            sizes, odd,
        )  # fmt: skip
        if found > most:
            return None
        kept = np.flatnonzero(~odd)
        if found:
            cells, sizes = cells[:, kept], sizes[:, kept]
        columns: list[Cells | Epochs | pa.Array] = []
        for kind, field, cell, size in zip(self._kinds, self._fields, cells, sizes, strict=True):
            column = _column(kind, field, data, cell, size)
            if column is None:
                return None
            columns.append(column)
        return Plain(columns, kept, np.flatnonzero(odd).tolist())


def _column(
    kind: int, field: FieldPlan, data: NDArray[np.uint8], cell: Int64, size: NDArray[np.int32]
) -> Cells | Epochs | pa.Array | None:
    null = size == jk.NULL
    if kind == jk.TIME:
        number = size == jk.NUMBER
        if not (number | null).all():
            return None if number.any() else _text(data, cell, size, null).to_pylist()
        return Epochs(np.where(null, 0, cell) if null.any() else cell, ~null)
    if kind == jk.STRING:
        return _text(data, cell, size, null)
    arrow = arrow_type(field.type)
    if kind == jk.OTHER:
        return pa.nulls(len(cell), arrow)
    values = cell.view(np.float64) if kind in {jk.FLOAT, jk.DOUBLE} else cell
    mask = null if null.any() else None
    if mask is not None:
        values = np.where(null, 0, values)
    return pa.array(values.astype(arrow.to_pandas_dtype(), copy=False), arrow, mask=mask)


def _text(
    data: NDArray[np.uint8], at: Int64, size: NDArray[np.int32], null: NDArray[np.bool_]
) -> pa.StringArray:
    ends, text = jk.texts(data, at, size)
    bits = None
    if null.any():
        bits = pa.py_buffer(np.packbits(~null, bitorder="little"))
    return pa.StringArray.from_buffers(len(at), pa.py_buffer(ends), pa.py_buffer(text), bits)
