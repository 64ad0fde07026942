"""Many rows of a view to the packed bytes that `headwater.codec.RowCodec` reads. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from headwater.arrow import arrow_type
from headwater.catalog import ViewPlan
from headwater.codec import FIXED_TYPES, HAS_CREATED, HAS_NULLS, HAS_OFFSET, RowCodec
from headwater.copying import copy
from headwater.interning import Bytes, Int64, Texts, texts

#: How a fixed cell's eight bytes are cut: int32, float32 and bool take less.
_WIDTHS = {"i": 4, "q": 8, "?": 1, "f": 4, "d": 8}


class RowPacker:
    """Packs columns of one view's features."""

    def __init__(self, view: ViewPlan) -> None:
        self._types = [field.type for field in view.features]
        self._codec = RowCodec.of(view)
        self._fixed = [i for i, t in enumerate(self._types) if t in FIXED_TYPES]
        self._texts = [i for i, t in enumerate(self._types) if t in {"STRING", "BYTES"}]
        self._compiled = len(self._fixed) + len(self._texts) == len(self._types)
        self._layout = np.array(
            [(i, _WIDTHS[FIXED_TYPES[self._types[i]]]) for i in self._fixed], np.int64
        ).reshape(-1, 2)
        self._text_layout = np.array(
            [(i, self._types[i] == "BYTES") for i in self._texts], np.int64
        ).reshape(-1, 2)
        self._fingerprint = np.frombuffer(self._codec.fingerprint, np.uint8)

    def pack(
        self,
        event_us: Int64,
        created_us: Int64 | None,
        columns: Sequence[Any],
        partition: Int64 | None = None,
        offset: Int64 | None = None,
    ) -> Texts:
        """n packed rows. columns: one for each feature (Arrow, or None for
        all null), in their order.

        event_us, created_us: [n], microseconds. partition, offset: [n] where a stream wrote them.
        """
        n = len(event_us)
        arrays = [_cast(c, t, n) for c, t in zip(columns, self._types, strict=True)]
        if not self._compiled:
            return self._one_by_one(event_us, created_us, arrays, partition, offset)
        cells = np.zeros((n, len(self._fixed)), np.int64)
        valid = np.zeros((n, len(self._types)), np.bool_)
        for i, array in enumerate(arrays):
            valid[:, i] = np.asarray(array.is_valid())
        for c, i in enumerate(self._fixed):
            cells[:, c] = _words(arrays[i])
        data, at = _strings([arrays[i] for i in self._texts], n)
        flags = (HAS_CREATED if created_us is not None else 0) | (
            HAS_OFFSET if partition is not None else 0
        )
        zeros = np.zeros(n if created_us is None or partition is None else 0, np.int64)
        parts = (
            flags, self._fingerprint, event_us, zeros if created_us is None else created_us,
            zeros if partition is None else partition, zeros if offset is None else offset,
            cells, valid, self._layout, data, at, self._text_layout,
        )  # fmt: skip
        out_at = np.zeros(n + 1, np.int64)
        _pack(np.empty(0, np.uint8), out_at, False, *parts)
        out: Bytes = np.empty(out_at[-1], np.uint8)
        _pack(out, out_at, True, *parts)
        return Texts(out, out_at)

    def _one_by_one(
        self, event_us: Int64, created_us: Int64 | None, arrays: Sequence[pa.Array],
        partition: Int64 | None, offset: Int64 | None,
    ) -> Texts:  # fmt: skip
        n = len(event_us)
        cells = [_plain(array).to_pylist() for array in arrays]
        made = [None] * n if created_us is None else created_us.tolist()
        places = [-1] * n if partition is None else partition.tolist()
        offsets = [-1] * n if offset is None else offset.tolist()
        rows = zip(event_us.tolist(), made, places, offsets, strict=True)
        return texts(
            [self._codec.pack(*row, [cell[i] for cell in cells]) for i, row in enumerate(rows)]
        )


def _cast(column: Any, value_type: str, n: int) -> pa.Array:
    if column is None:
        return pa.nulls(n, arrow_type(value_type))
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    target = arrow_type(value_type)
    if array.type != target and not pa.types.is_nested(array.type):
        array = array.cast(target)
    return array


def _plain(array: pa.Array) -> pa.Array:
    """Timestamps as microseconds, in lists too."""
    if pa.types.is_timestamp(array.type):
        return array.cast(pa.int64())
    if pa.types.is_list(array.type) and pa.types.is_timestamp(array.type.value_type):
        return array.cast(pa.list_(pa.int64()))
    return array


def _words(array: pa.Array) -> NDArray[Any]:
    """A column as eight bytes each: integers, or the bits of its floats in its low bytes."""
    array = _plain(array)
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.int8())
    values: NDArray[Any] = array.fill_null(0).to_numpy(zero_copy_only=False)
    if values.dtype == np.float32:
        values = values.view(np.int32)
    return values.view(np.int64) if values.dtype == np.float64 else values


def _strings(arrays: Sequence[pa.Array], n: int) -> tuple[Bytes, Int64]:
    """Text columns in one buffer, and where each value lies in it [columns, n + 1]."""
    at = np.zeros((len(arrays), n + 1), np.int64)
    parts: list[Bytes] = []
    base = 0
    for c, array in enumerate(arrays):
        _, offsets, data = array.buffers()
        held = np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
        if n:
            place = np.frombuffer(offsets, np.int32)[array.offset : array.offset + n + 1]
            at[c] = place.astype(np.int64) - int(place[0]) + base
            held = held[int(place[0]) : int(place[-1])]
        parts.append(held)
        base += len(held)
    return np.concatenate(parts) if parts else np.empty(0, np.uint8), at


@njit(cache=True, nogil=True)
def _put(out, at, value, width):
    """The low `width` bytes of a word, little-endian."""
    for i in range(width):
        out[at + i] = (value >> (8 * i)) & 0xFF
    return at + width


@njit(cache=True, nogil=True)
def _text_head(out, at, size, binary, real):
    """MessagePack's head of a text (or of bytes) of some size; returns the place behind it."""
    if size < 32 and not binary:
        if real:
            out[at] = 0xA0 | size
        return at + 1
    width = 1 if size < 256 else 2 if size < 65536 else 4
    if real:
        out[at] = (0xC4 if binary else 0xD9) + (width >> 1)
        for i in range(width):
            out[at + 1 + i] = (size >> (8 * (width - 1 - i))) & 0xFF
    return at + 1 + width


@njit(cache=True, nogil=True)
def _pack(
    out, out_at, real, flags, fingerprint, event_us, created_us, partition, offset, cells, valid,
    layout, data, at, text_layout,
):  # fmt: skip
    """Pack the rows, or only measure them into `out_at`."""
    features = valid.shape[1]
    bits = (features + 7) // 8
    n_texts = text_layout.shape[0]
    p = np.int64(0)
    for r in range(event_us.size):
        nulls = False
        for f in range(features):
            nulls = nulls or not valid[r, f]
        if real:
            out[p] = flags | (HAS_NULLS if nulls else 0)
            for i in range(3):
                out[p + 1 + i] = fingerprint[i]
            _put(out, p + 4, event_us[r], 8)
        p += 12
        if flags & HAS_CREATED:
            if real:
                _put(out, p, created_us[r], 8)
            p += 8
        if flags & HAS_OFFSET:
            if real:
                _put(out, p, partition[r], 4)
                _put(out, p + 4, offset[r], 8)
            p += 12
        if nulls:
            if real:
                for i in range(bits):
                    out[p + i] = 0
                for f in range(features):
                    if not valid[r, f]:
                        out[p + (f >> 3)] |= np.uint8(1 << (f & 7))
            p += bits
        for c in range(layout.shape[0]):
            width = layout[c, 1]
            if real:
                _put(out, p, cells[r, c], width)
            p += width
        if n_texts:
            if n_texts < 16:
                if real:
                    out[p] = 0x90 | n_texts
                p += 1
            else:
                if real:
                    out[p], out[p + 1], out[p + 2] = 0xDC, n_texts >> 8, n_texts & 0xFF
                p += 3
        for c in range(n_texts):
            if not valid[r, text_layout[c, 0]]:
                if real:
                    out[p] = 0xC0
                p += 1
                continue
            begin, end = at[c, r], at[c, r + 1]
            p = _text_head(out, p, end - begin, text_layout[c, 1] == 1, real)
            if real:
                copy(out, p, data, begin, end)
            p += end - begin
        if not real:
            out_at[r + 1] = p
