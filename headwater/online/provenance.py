"""What served values were made of: offsets of windowed state, the row that was the newest. Pure.

A section holds every event of its key up to its offset, so (topic, partition, offset) name exactly
what a window was computed from; a row is named by its event time and its version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headwater import read_kernels as kernels
from headwater.arrow import TIMESTAMP
from headwater.catalog import StreamSourcePlan, ViewPlan
from headwater.codec import HAS_CREATED, HAS_OFFSET, WINDOW_HEADER
from headwater.kernels import HEADER
from headwater.online.columns import Joined
from headwater.windows import WindowProgram, source_id

Int64 = NDArray[np.int64]
#: A section of the events before a log began: of no topic, numbered by its history's rows.
HISTORY = ("", -1)
ROW_TYPE = pa.struct(
    [
        ("event_timestamp", TIMESTAMP), ("created", TIMESTAMP), ("partition", pa.int32()),
        ("offset", pa.int64()), ("readable", pa.bool_()),
    ]
)  # fmt: skip
#: What these are called in rows, up to the last.
_ROW_FIELDS = ("event", "created", "partition", "offset")
WINDOW_TYPE = pa.list_(
    pa.struct([("topic", pa.string()), ("partition", pa.int32()), ("offset", pa.int64())])
)
_HEADER = int.from_bytes(WINDOW_HEADER, "little", signed=True)


def source_ids(stream: StreamSourcePlan, partitions: int) -> dict[int, tuple[str, int]]:
    """`windows.source_id` -> (topic, partition), of a source's first partitions and its history."""
    found = {source_id(t, p): (t, p) for t in stream.topics for p in range(partitions)}
    return {source_id(*HISTORY): HISTORY, **found}


class Origins(NamedTuple):
    """What several values of Redis were made of, as bytes.

    Windows: as `kernels.section_origins` puts it out. Rows: one behind the other, or their heads,
    and how many bytes each has: [n] int64, or one number where all are alike.
    """

    data: bytes | memoryview
    sizes: int | bytes | memoryview


class Provenance:
    """Reads the provenance of one view's values as an Arrow column."""

    def __init__(self, view: ViewPlan, streams: Mapping[str, StreamSourcePlan]) -> None:
        self._view = view
        self._fingerprint = int.from_bytes(view.schema_fingerprint, "little")
        topics = streams[view.stream].topics if view.stream in streams else ()
        numbers = sorted((source_id(topic, 0) >> 16, topic) for topic in ("", *topics))
        self._hashes = np.array([number for number, _ in numbers], np.int64)
        self._topics = pa.array([topic for _, topic in numbers], pa.string())
        self._names: dict[int, str] = {}

    @property
    def type(self) -> pa.DataType:
        return WINDOW_TYPE if self._view.kind == "window" else ROW_TYPE

    def column(self, data: Sequence[bytes | None]) -> pa.Array:
        """What each of n values of Redis was made of: WINDOW_TYPE or ROW_TYPE, null for none."""
        return self.column_of([self.origins(data)], [len(data)])

    def column_of(self, parts: Sequence[Origins], sizes: Sequence[int]) -> pa.Array:
        """The same of several requests' values, in their order; sizes: how many each has."""
        if self._view.kind == "window":
            return self._windows(_sections(parts, sizes))
        return self._rows(*self._origins(parts, sizes))

    def column_of_rows(self, parts: Sequence[NDArray[Any]]) -> pa.Array:
        """The same of rows of the view's schema, in parts of one layout
        (`online.columns.RowColumns.of_parts`)."""
        n, known = sum(map(len, parts)), parts[0].dtype.names or ()
        columns = [
            pa.array(np.concatenate([rows[name] for rows in parts])).cast(field.type)
            if name in known
            else pa.nulls(n, field.type)
            for name, field in zip(_ROW_FIELDS, ROW_TYPE, strict=False)
        ]
        readable = pa.repeat(pa.scalar(True), n)
        return pa.StructArray.from_arrays([*columns, readable], fields=list(ROW_TYPE))

    def origins(self, data: Sequence[bytes | None], joined: Joined | None = None) -> Origins:
        """What is to be kept of values of Redis to tell later what they were made of.

        joined: the same values, where they were joined to be read; then windows need no `data`.
        """
        if self._view.kind == "window":
            return Origins(window_origins(*(joined or WindowProgram.joined(data))), 0)
        if joined is None:
            kept = [value if value and len(value) >= 12 else b"" for value in data]
            return Origins(b"".join(kept), np.array([len(value) for value in kept], np.int64).data)
        if isinstance(joined.sizes, np.ndarray):
            return Origins(joined.data.data, joined.sizes.data)
        return row_heads(joined.data, joined.sizes)

    def describe(self, data: Sequence[bytes | None]) -> dict[str, Any]:
        """The same for an answer in JSON, column by column.

        Windows: `offsets`, an object an entity of `<topic>-<partition>` and last offset. Rows:
        `event_timestamps` (1970 is none), and where any row has them `created_timestamps`,
        `partitions`, `offsets`; `readable` where any is not.
        """
        if self._view.kind == "window":
            found = _sections([self.origins(data)], [len(data)])
            at, source, offset = (part.tolist() for part in found)
            names = [self._name(number) for number in source]
            return {
                "offsets": [
                    dict(zip(names[a:b], offset[a:b], strict=True)) for a, b in pairwise(at)
                ]
            }
        _, (event, created, partition, offset), state = self._origins(
            [self.origins(data)], [len(data)]
        )
        shown: dict[str, Any] = {"event_timestamps": event.view("datetime64[us]")}
        if (state & 2).any():
            shown["created_timestamps"] = created.view("datetime64[us]")
        if (state & 4).any():
            shown |= {"partitions": partition, "offsets": offset}
        if not (state & 1 | (event == 0)).all():
            shown["readable"] = (state & 1).astype(np.bool_)
        return shown

    def _name(self, source: int) -> str:
        name = self._names.get(source)
        if name is None:
            at = int(np.searchsorted(self._hashes, source >> 16))
            known = at < len(self._hashes) and self._hashes[at] == source >> 16
            topic = self._topics[at].as_py() if known else "?"
            name = self._names[source] = f"{topic}-{source & 0xFFFF}" if topic else "history"
        return name

    def _origins(
        self, parts: Sequence[Origins], counts: Sequence[int]
    ) -> tuple[Int64, Int64, NDArray[np.uint8]]:
        """Sizes [n], numbers [4, n] and state [n] of rows, as `kernels.row_origins` has them."""
        data = np.frombuffer(b"".join([part.data for part in parts]), np.uint8)
        sizes = np.concatenate(
            [
                np.full(n, part.sizes) if isinstance(part.sizes, int)
                else np.frombuffer(part.sizes, np.int64)
                for part, n in zip(parts, counts, strict=True)
            ]
        )  # fmt: skip
        return sizes, *_row_origins(data, sizes, np.full(len(sizes), self._fingerprint))

    def _windows(self, sections: Sections) -> pa.Array:
        at, source, offset = sections
        place = np.minimum(np.searchsorted(self._hashes, source >> 16), len(self._hashes) - 1)
        known = self._hashes[place] == source >> 16
        partition = (source & 0xFFFF).astype(np.int32)
        partition[partition == 0xFFFF] = -1
        topics = self._topics.take(pa.array(place, mask=~known))
        rows = pa.StructArray.from_arrays(
            [topics, pa.array(partition), pa.array(offset)], fields=list(WINDOW_TYPE.value_type)
        )
        return pa.ListArray.from_arrays(pa.array(at.astype(np.int32)), rows)

    def _rows(self, sizes: Int64, numbers: Int64, state: NDArray[np.uint8]) -> pa.Array:
        event, created, partition, offset = numbers
        dated, placed = state & 2 > 0, state & 4 > 0
        return pa.StructArray.from_arrays(
            [
                pa.array(event).cast(TIMESTAMP), pa.array(created, mask=~dated).cast(TIMESTAMP),
                pa.array(partition.astype(np.int32), mask=~placed), pa.array(offset, mask=~placed),
                pa.array(state & 1 > 0),
            ],
            fields=list(ROW_TYPE), mask=pa.array(sizes == 0),
        )  # fmt: skip


def window_origins(words: Int64, counts: Int64 | int) -> bytes:
    """As `kernels.section_origins` puts it out, of windows that were joined to be read."""
    assert not isinstance(counts, int)  # noqa: S101 (windows are not all alike)
    # A section is a word and no less than HEADER more.
    out = np.empty(len(counts) + 2 * (len(words) // (HEADER + 1)), np.int64)
    used = kernels.section_origins(words, counts, _HEADER, out)
    return out[:used].tobytes()


def row_heads(data: bytes | memoryview, size: int) -> Origins:
    """The origins of packed rows that all have so many bytes, and the same flags."""
    flags = data[0] if size else 0
    head = 12 + (8 if flags & HAS_CREATED else 0) + (12 if flags & HAS_OFFSET else 0)
    if size <= head:
        return Origins(data, size)
    heads = np.ndarray(len(data) // size, f"V{head}", data, strides=(size,))
    return Origins(heads.tobytes(), head)


def _row_origins(
    data: NDArray[np.uint8], sizes: Int64, prints: Int64
) -> tuple[Int64, NDArray[np.uint8]]:
    """Numbers [4, n] and state [n] of rows one behind the other, as `kernels.row_origins`."""
    numbers, state = np.zeros((4, len(sizes)), np.int64), np.zeros(len(sizes), np.uint8)
    kernels.row_origins(data, sizes, prints, numbers, state)
    return numbers, state


def _sections(parts: Sequence[Origins], sizes: Sequence[int]) -> Sections:
    counts, pairs = [], []
    for part, n in zip(parts, sizes, strict=True):
        words = np.frombuffer(part.data, np.int64)
        counts.append(words[:n])
        pairs.append(words[n:])
    at = np.zeros(sum(sizes) + 1, np.int64)
    np.cumsum(np.concatenate(counts), out=at[1:])
    source, offset = np.concatenate(pairs).reshape(-1, 2).T
    return Sections(at, source, np.ascontiguousarray(offset))


class Sections(NamedTuple):
    """A windowed view's provenance as arrays: value i has the sections `at[i]:at[i + 1]`."""

    at: Int64
    source: Int64
    offset: Int64

    @classmethod
    def of(cls, column: pa.Array) -> Sections:
        """From a column of WINDOW_TYPE."""
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        sizes = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        at = np.zeros(len(array) + 1, np.int64)
        np.cumsum(sizes, out=at[1:])
        sections = array.flatten()
        topics = sections.field("topic").fill_null("?").dictionary_encode()
        hashes = [source_id(topic, 0) for topic in topics.dictionary.to_pylist()]
        numbers = np.array(hashes, np.int64)[topics.indices.to_numpy()] if hashes else at[:0]
        partition = sections.field("partition").cast(pa.int64()).to_numpy() & 0xFFFF
        return cls(at, numbers | partition, sections.field("offset").to_numpy())
