"""What served values were made of: offsets of windowed state, the row that was the newest. Pure.

A section holds every event of its key up to its offset, so (topic, partition, offset) name exactly
what a window was computed from; a row is named by its event time and its version.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headwater import read_kernels as kernels
from headwater.arrow import TIMESTAMP
from headwater.catalog import StreamSourcePlan, ViewPlan
from headwater.codec import WINDOW_HEADER
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
WINDOW_TYPE = pa.list_(
    pa.struct([("topic", pa.string()), ("partition", pa.int32()), ("offset", pa.int64())])
)
#: Bytes that are looked through at once: what is copied for it should stay in the cache.
_PIECE = 1 << 17
_HEADER = int.from_bytes(WINDOW_HEADER, "little", signed=True)


def source_ids(stream: StreamSourcePlan, partitions: int) -> dict[int, tuple[str, int]]:
    """`windows.source_id` -> (topic, partition), of a source's first partitions and its history."""
    found = {source_id(t, p): (t, p) for t in stream.topics for p in range(partitions)}
    return {source_id(*HISTORY): HISTORY, **found}


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
        return self.column_of([self.joined(data)])

    def column_of(self, parts: Iterable[Joined]) -> pa.Array:
        """The same of values in several pieces, in their order."""
        return self._windows(parts) if self._view.kind == "window" else self._rows(parts)

    def describe(self, data: Sequence[bytes | None]) -> dict[str, Any]:
        """The same for an answer in JSON, column by column.

        Windows: `offsets`, an object an entity of `<topic>-<partition>` and last offset. Rows:
        `event_timestamps` (1970 is none), and where any row has them `created_timestamps`,
        `partitions`, `offsets`; `readable` where any is not.
        """
        if self._view.kind == "window":
            at, source, offset = (part.tolist() for part in self._sections([self.joined(data)]))
            names = [self._name(number) for number in source]
            return {
                "offsets": [
                    dict(zip(names[a:b], offset[a:b], strict=True)) for a, b in pairwise(at)
                ]
            }
        _, (event, created, partition, offset), state = self._origins([self.joined(data)])
        found: dict[str, Any] = {"event_timestamps": event.view("datetime64[us]")}
        if (state & 2).any():
            found["created_timestamps"] = created.view("datetime64[us]")
        if (state & 4).any():
            found |= {"partitions": partition, "offsets": offset}
        if not (state & 1 | (event == 0)).all():
            found["readable"] = (state & 1).astype(np.bool_)
        return found

    def _name(self, source: int) -> str:
        name = self._names.get(source)
        if name is None:
            at = int(np.searchsorted(self._hashes, source >> 16))
            known = at < len(self._hashes) and self._hashes[at] == source >> 16
            topic = self._topics[at].as_py() if known else "?"
            name = self._names[source] = f"{topic}-{source & 0xFFFF}" if topic else "history"
        return name

    def joined(self, data: Sequence[bytes | None]) -> Joined:
        """Values of Redis put together, as `column_of` takes them."""
        if self._view.kind == "window":
            return Joined(*WindowProgram.joined(data))
        kept = [value if value and len(value) >= 12 else b"" for value in data]
        return Joined(b"".join(kept), np.array([len(value) for value in kept], np.int64))

    def _origins(self, parts: Iterable[Joined]) -> tuple[Int64, Int64, NDArray[np.uint8]]:
        """Sizes [n], numbers [4, n] and state [n] of rows, as `kernels.row_origins` has them."""
        found = []
        for data, sizes in _together(parts, np.uint8):
            numbers = np.zeros((4, len(sizes)), np.int64)
            state = np.zeros(len(sizes), np.uint8)
            kernels.row_origins(data, sizes, self._fingerprint, numbers, state)
            found.append((sizes, numbers, state))
        return (
            np.concatenate([sizes for sizes, _, _ in found]),
            np.concatenate([numbers for _, numbers, _ in found], 1),
            np.concatenate([state for _, _, state in found]),
        )

    def _sections(self, parts: Iterable[Joined]) -> Sections:
        found = []
        for words, sizes in _together(parts, np.int64):
            at = np.zeros(len(sizes) + 1, np.int64)
            most = kernels.count_sections(words, sizes, _HEADER, at)
            source, offset = np.empty(most, np.int64), np.empty(most, np.int64)
            kernels.read_sections(words, sizes, at, source, offset)
            found.append((np.diff(at), source, offset))
        counts, source, offset = (np.concatenate(of) for of in zip(*found, strict=True))
        at = np.zeros(len(counts) + 1, np.int64)
        np.cumsum(counts, out=at[1:])
        return Sections(at, source, offset)

    def _windows(self, parts: Iterable[Joined]) -> pa.Array:
        at, source, offset = self._sections(parts)
        place = np.minimum(np.searchsorted(self._hashes, source >> 16), len(self._hashes) - 1)
        known = self._hashes[place] == source >> 16
        partition = (source & 0xFFFF).astype(np.int32)
        partition[partition == 0xFFFF] = -1
        topics = self._topics.take(pa.array(place, mask=~known))
        sections = pa.StructArray.from_arrays(
            [topics, pa.array(partition), pa.array(offset)], fields=list(WINDOW_TYPE.value_type)
        )
        return pa.ListArray.from_arrays(pa.array(at.astype(np.int32)), sections)

    def _rows(self, parts: Iterable[Joined]) -> pa.Array:
        sizes, (event, created, partition, offset), state = self._origins(parts)
        dated, placed = state & 2 > 0, state & 4 > 0
        return pa.StructArray.from_arrays(
            [
                pa.array(event).cast(TIMESTAMP), pa.array(created, mask=~dated).cast(TIMESTAMP),
                pa.array(partition.astype(np.int32), mask=~placed), pa.array(offset, mask=~placed),
                pa.array(state & 1 > 0),
            ],
            fields=list(ROW_TYPE), mask=pa.array(sizes == 0),
        )  # fmt: skip


def _together(parts: Iterable[Joined], kind: type[Any]) -> Iterator[tuple[Any, Int64]]:
    """Small pieces together, so that there are few of them, and large ones alone.

    Yields values one behind the other, in units of `kind`, and how many units each has.
    """
    held: list[Any] = []
    sizes: list[Int64] = []
    waiting = 0
    for data, size in parts:
        one = data if isinstance(data, np.ndarray) else np.frombuffer(data, kind)
        held.append(one)
        sizes.append(size if isinstance(size, np.ndarray) else np.full(len(one) // size, size))
        waiting += one.nbytes
        if waiting >= _PIECE:
            yield _joined(held), _joined(sizes)
            held, sizes, waiting = [], [], 0
    if held:
        yield _joined(held), _joined(sizes)


def _joined(arrays: list[Any]) -> Any:
    if len(arrays) == 1:
        return arrays[0]
    together = np.concatenate(arrays)
    # As bytes are: the compiled loops are not made for both.
    together.flags.writeable = arrays[0].flags.writeable
    return together


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
