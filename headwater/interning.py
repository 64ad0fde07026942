"""Entities as numbers: their key texts, and a table that numbers each distinct text once. Pure.

Texts are held as one byte buffer and n + 1 positions, so that no key is ever a Python object.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from headwater.codec import key_text
from headwater.copying import copy

Int64 = NDArray[np.int64]
Bytes = NDArray[np.uint8]


class Texts(NamedTuple):
    """n texts: text i is `data[at[i]:at[i + 1]]`; at is [n + 1]."""

    data: Bytes
    at: Int64

    def __len__(self) -> int:
        return len(self.at) - 1

    def tolist(self) -> list[bytes]:
        data, at = self.data.tobytes(), self.at.tolist()
        return [data[a:b] for a, b in pairwise(at)]


def texts(values: Sequence[bytes]) -> Texts:
    """Python's own byte strings as texts."""
    at = np.zeros(len(values) + 1, np.int64)
    np.cumsum([len(value) for value in values], out=at[1:])
    return Texts(np.frombuffer(b"".join(values), np.uint8), at)


def entity_texts(columns: Sequence[pa.ChunkedArray | pa.Array], n: int) -> Texts:
    """The text of each of n entities, as `codec.entity_text` writes it, from its key columns.

    columns: in join-key order, without nulls, timestamps in microseconds.
    """
    if not columns or not n:
        return Texts(np.empty(0, np.uint8), np.zeros(n + 1, np.int64))
    parts = [_column(column) for column in columns]
    if len(parts) == 1:
        return parts[0]
    whole = _framed(*parts[0])
    for part in parts[1:]:
        whole = _joined(*whole, *_framed(*part))
    return Texts(*whole)


def _column(column: pa.ChunkedArray | pa.Array) -> Texts:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    kind = array.type
    if pa.types.is_timestamp(kind):
        array, kind = array.cast(pa.timestamp("us", kind.tz)).cast(pa.int64()), pa.int64()
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        return Texts(*_digits(array.cast(pa.int64()).to_numpy(zero_copy_only=False)))
    if not pa.types.is_string(kind) and not pa.types.is_binary(kind):
        array = pa.array([key_text(value) for value in array.to_pylist()], pa.binary())
    _, offsets, data = array.buffers()
    at = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1]
    held = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    return Texts(held, at.astype(np.int64))


class KeyTable:
    """Numbers distinct texts 0, 1, 2, ... in the order in which they are first seen."""

    def __init__(self) -> None:
        # A seed of its own for each process: nobody can choose keys that collide.
        self._seed = np.uint64(secrets.randbits(64))
        self.clear()

    def clear(self) -> None:
        self.size = 0
        self._index = np.zeros(1 << 10, np.int32)
        self._hash = np.empty(0, np.uint64)
        self._at: Int64 = np.zeros(1, np.int64)
        self._data: Bytes = np.empty(0, np.uint8)

    def intern(self, keys: Texts) -> Int64:
        """The number of each text, new ones included; [n]."""
        n = len(keys)
        most = self.size + n
        if most > len(self._hash):
            room = max(most, len(self._hash) * 3 // 2)
            self._hash = _grown(self._hash, room, self.size)
            self._at = _grown(self._at, room + 1, self.size + 1)
        bytes_ = int(self._at[self.size] + keys.at[-1] - keys.at[0])
        if bytes_ > len(self._data):
            self._data = _grown(
                self._data, max(bytes_, len(self._data) * 3 // 2), int(self._at[self.size])
            )
        if 2 * most > len(self._index):
            self._index = np.zeros(1 << int(np.ceil(np.log2(3 * most))), np.int32)
            _reindex(self._index, self._hash, self.size)
        out = np.empty(n, np.int64)
        self.size = _intern(
            self._index, self._hash, self._at, self._data, self.size, keys.data, keys.at, out,
            self._seed,
        )  # fmt: skip
        return out

    @property
    def texts(self) -> Texts:
        """Every text, by number."""
        return Texts(self._data, self._at[: self.size + 1])

    @property
    def nbytes(self) -> int:
        return self._index.nbytes + self._hash.nbytes + self._at.nbytes + self._data.nbytes


def _grown(array: NDArray[Any], room: int, used: int) -> NDArray[Any]:
    larger = np.empty(room, array.dtype)
    larger[:used] = array[:used]
    return larger


@njit(cache=True, nogil=True)
def _text_hash(data, begin, end, seed):
    # FNV-1a, then the finalizer of MurmurHash3.
    h = seed ^ np.uint64(0xCBF29CE484222325)
    for i in range(begin, end):
        h = (h ^ np.uint64(data[i])) * np.uint64(0x100000001B3)
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xFF51AFD7ED558CCD)
    return h ^ (h >> np.uint64(33))


@njit(cache=True, nogil=True)
def _reindex(index, hashes, size):
    mask = np.uint64(index.size - 1)
    for slot in range(size):
        p = hashes[slot] & mask
        while index[p] != 0:
            p = (p + np.uint64(1)) & mask
        index[p] = slot + 1


@njit(cache=True, nogil=True)
def _intern(index, hashes, held_at, held, size, data, at, out, seed):
    mask = np.uint64(index.size - 1)
    for i in range(at.size - 1):
        begin, end = at[i], at[i + 1]
        h = _text_hash(data, begin, end, seed)
        p = h & mask
        while True:
            slot = index[p] - 1
            if slot < 0:
                slot = size
                index[p] = size + 1
                hashes[size] = h
                start = held_at[size]
                held_at[size + 1] = copy(held, start, data, begin, end)
                size += 1
                break
            start = held_at[slot]
            if hashes[slot] == h and held_at[slot + 1] - start == end - begin:
                same = True
                for j in range(end - begin):
                    if held[start + j] != data[begin + j]:
                        same = False
                        break
                if same:
                    break
            p = (p + np.uint64(1)) & mask
        out[i] = slot
    return size


@njit(cache=True, nogil=True)
def digits(value):
    """How many characters a number takes in decimal, its sign included."""
    n = 1
    if value < 0:
        n = 2
        value = -(value + 1) if value == np.iinfo(np.int64).min else -value
    while value >= 10:
        value //= 10
        n += 1
    return n


@njit(cache=True, nogil=True)
def put_number(data, at, value):
    """Write a number in decimal at `at`; returns the place behind it."""
    if value == np.iinfo(np.int64).min:
        return put_number_digits(data, at, np.uint64(9223372036854775808), True)
    if value < 0:
        return put_number_digits(data, at, np.uint64(-value), True)
    return put_number_digits(data, at, np.uint64(value), False)


@njit(cache=True, nogil=True)
def put_number_digits(data, at, value, negative):
    if negative:
        data[at] = 45
        at += 1
    n = 1
    rest = value
    while rest >= np.uint64(10):
        rest //= np.uint64(10)
        n += 1
    for i in range(n - 1, -1, -1):
        data[at + i] = np.uint8(48) + np.uint8(value % np.uint64(10))
        value //= np.uint64(10)
    return at + n


@njit(cache=True, nogil=True)
def _digits(values):
    at = np.zeros(values.size + 1, np.int64)
    for i in range(values.size):
        at[i + 1] = at[i] + digits(values[i])
    data = np.empty(at[-1], np.uint8)
    for i in range(values.size):
        put_number(data, at[i], values[i])
    return data, at


@njit(cache=True, nogil=True)
def _framed(data, at):
    """Each text behind its length and a colon, so that texts in a row stay apart."""
    n = at.size - 1
    out_at = np.zeros(n + 1, np.int64)
    for i in range(n):
        size = at[i + 1] - at[i]
        out_at[i + 1] = out_at[i] + digits(size) + 1 + size
    out = np.empty(out_at[-1], np.uint8)
    for i in range(n):
        p = put_number(out, out_at[i], at[i + 1] - at[i])
        out[p] = 58
        copy(out, p + 1, data, at[i], at[i + 1])
    return out, out_at


@njit(cache=True, nogil=True)
def _joined(a, a_at, b, b_at):
    """Text i of the one followed by text i of the other."""
    n = a_at.size - 1
    at = np.zeros(n + 1, np.int64)
    for i in range(n):
        at[i + 1] = at[i] + a_at[i + 1] - a_at[i] + b_at[i + 1] - b_at[i]
    out = np.empty(at[-1], np.uint8)
    for i in range(n):
        p = copy(out, at[i], a, a_at[i], a_at[i + 1])
        copy(out, p, b, b_at[i], b_at[i + 1])
    return out, at
