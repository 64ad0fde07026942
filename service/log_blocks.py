"""Vectors of one plan as they wait to be logged, and how many of them become one block of a
segment.

The event loop keeps what the answers were written from, as it is, and that is all that it does; the
feature log's thread puts it together (`Layout.packed`).
"""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headwater import read_kernels
from headwater.offline.log_segments import packed_arrays
from headwater.online.columns import Int64, Joined, UInt8

#: No row's head is longer (`headwater.codec`).
_HEAD_BYTES = 32


class Part(NamedTuple):
    """One request for n entities, or (`turn`) n for one each that were answered together.

    entities: of each request. words: [features, n] each, one below the other; status: codes
    [features, n], None where all are PRESENT; event_us: [n] or [reads, n]. origins: the packed rows
    of a read, or of all of them, read by read; or of windows how many sections each value has [n],
    and their sources and last offsets, as bytes. Parts of one
    layout differ in n alone, turns and others apart.
    """

    now_us: int
    n: int
    turn: bool
    entities: Sequence[Mapping[str, Sequence[Any]]]
    words: Sequence[NDArray[Any]]
    status: Sequence[UInt8 | None]
    event_us: Sequence[Int64]
    origins: Sequence[Joined | bytes]


class RowsPart(NamedTuple):
    """A request for n entities that was answered from rows of one size without a null.

    rows: of each read, one behind the other; sizes: bytes of a row of each read.
    """

    now_us: int
    n: int
    entities: Mapping[str, Sequence[Any]]
    rows: Sequence[bytes]
    sizes: tuple[int, ...]


class Scratch:
    """Memory that is used again and again: new memory has to be cleared by the kernel first."""

    def __init__(self) -> None:
        self._memory = np.empty(1 << 20, np.uint8)
        self._at = 0

    def array(self, shape: Sequence[int], kind: Any) -> NDArray[Any]:
        """An array, of any content, that is good until `clear`."""
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        start, end = self._at, self._at + size
        if end > len(self._memory):  # what was given out keeps the old memory
            self._memory, start, end = np.empty(2 * end, np.uint8), 0, size
        self._at = -(-end // 8) * 8
        found: NDArray[Any] = self._memory[start:end].view(kind).reshape(shape)
        return found

    def clear(self) -> None:
        self._at = 0


class Layout(NamedTuple):
    """What parts of a plan hold. keys: the types of the key columns; features: how many, of each
    read."""

    keys: Mapping[str, str]
    features: tuple[int, ...]

    @property
    def vector_bytes(self) -> int:
        """What a vector takes, about."""
        return 9 * sum(self.features) + 24 * len(self.features) + 12

    def packed(self, parts: Sequence[Part], scratch: Scratch) -> list[Any]:
        """Parts, all turns or none, as one block, as `Segment.append` takes it, in the scratch;
        raises as `packed_arrays`."""
        sizes = np.array([part.n for part in parts])
        n = int(sizes.sum())
        entities = [one for part in parts for one in part.entities]
        each = [1 if part.turn else part.n for part in parts for _ in part.entities]

        def beside(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
            shape, kind = (*arrays[0].shape[:-1], n), arrays[0].dtype
            return np.concatenate(arrays, -1, scratch.array(shape, kind))

        words = [beside(of) for of in zip(*(part.words for part in parts), strict=True)]
        event_us = [beside(of) for of in zip(*(part.event_us for part in parts), strict=True)]
        status: list[NDArray[Any]] = []
        if any(codes is not None for part in parts for codes in part.status):
            of_reads = zip(*(part.status for part in parts), strict=True)
            rows = self.features if len(parts[0].status) > 1 else (sum(self.features),)
            for features, of in zip(rows, of_reads, strict=True):
                status.append(
                    beside(
                        [
                            np.zeros((features, k), np.uint8) if codes is None else codes
                            for codes, k in zip(of, sizes.tolist(), strict=True)
                        ]
                    )
                )
        origins = [
            self._origins(of, sizes, n, scratch)
            for of in zip(*(part.origins for part in parts), strict=True)
        ]
        counts, data = [one for one, _ in origins], [one for _, more in origins for one in more]
        numbers = _requests([part.now_us for part in parts], sizes, each)
        arrays = ([_bytes(one) for one in of] for of in (words, status, event_us, counts, data))
        return packed_arrays(1, (n, self._columns(entities)), [*numbers, *arrays])

    def packed_rows(self, parts: Sequence[RowsPart]) -> list[Any]:
        """As `packed`, of parts of the same sizes."""
        each = [part.n for part in parts]
        numbers = _requests([part.now_us for part in parts], each, each)
        columns = self._columns([part.entities for part in parts])
        rows = [part.rows[read] for read in range(len(self.features)) for part in parts]
        return packed_arrays(3, (sum(each), columns, parts[0].sizes), [*numbers, rows])

    def _columns(self, entities: Sequence[Mapping[str, Sequence[Any]]]) -> dict[str, Any]:
        """The key columns of requests one behind the other, as `Block` has them."""
        columns: dict[str, Any] = {}
        for name, kind in self.keys.items():
            columns[name] = [*chain.from_iterable([one[name] for one in entities])]
            if kind == "INT64":
                # What is no number of 64 bits is told of where its column is made.
                with contextlib.suppress(TypeError, OverflowError):
                    columns[name] = array("q", columns[name]).tobytes()
        return columns

    def _origins(
        self, parts: Sequence[Joined | bytes], sizes: Int64, n: int, scratch: Scratch
    ) -> tuple[NDArray[np.int32], list[Any]]:
        """Of one read, or all reads of packed rows: counts [reads, n] and bytes, as `Block` has
        them."""
        if isinstance(parts[0], bytes):
            own: Sequence[Any] = parts
            ends = (8 * sizes).tolist()
            counts = b"".join([part[:end] for part, end in zip(own, ends, strict=True)])
            pairs = b"".join([part[end:] for part, end in zip(own, ends, strict=True)])
            return np.frombuffer(counts, np.int64).astype(np.int32), [pairs]
        rows: Sequence[Any] = parts
        data = np.frombuffer(b"".join([part.data for part in rows]), np.uint8)
        lengths = [
            np.full(k, part.sizes) if isinstance(part.sizes, int) else part.sizes
            for part, k in zip(rows, sizes.tolist(), strict=True)
        ]
        whole = np.concatenate(lengths)
        reads = len(whole) // n
        counts_of = np.empty((reads, n), np.int32)
        heads = scratch.array((reads, _HEAD_BYTES * n), np.uint8)
        used = np.zeros(reads, np.int64)
        read_kernels.row_heads(data, whole, sizes, counts_of, heads, used)
        return counts_of, [head[:size] for head, size in zip(heads, used.tolist(), strict=True)]


def _requests(now_us: Sequence[int], sizes: Any, each: Sequence[int]) -> list[list[Any]]:
    """Of each vector when it was answered (sizes: how many at each time), and its request's number
    (each: how many vectors each has)."""
    times = np.repeat(np.array(now_us, np.int64), sizes)
    request = np.repeat(np.arange(len(each), dtype=np.int32), each)
    return [[_bytes(times)], [_bytes(request)]]


def _bytes(array: Any) -> Any:
    """A contiguous array by its bytes."""
    return array.reshape(-1).view(np.uint8) if isinstance(array, np.ndarray) else array


def warm() -> None:
    """Load the compiled loop."""
    one = np.zeros((1, 1), np.int64)
    part = Part(0, 1, True, [{}], [one], [None], [one], [Joined(bytes(12), 12)])
    Layout({}, (1,)).packed([part], Scratch())
