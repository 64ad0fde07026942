"""Requests for one entity each: most requests, many of them answered by one call.

The general way (`service.prepared`) makes columns and texts of them, which for one entity costs
more than the values. Here requests for the same features that Redis answered in one turn of the
event loop are read like one request for all their entities, and compiled loops write every answer
whole.
Only numbers, truths and times fit; what does not is left to the general way, which answers alike.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import accumulate, chain, pairwise

import numpy as np

from headwater import json_kernels
from headwater.codec import FIXED_TYPES
from headwater.online.columns import RowColumns, RowWords, WindowColumns, Words
from service.answer import STATUS_TEXTS
from service.requests import FeaturePlan

_HOW = {
    "DOUBLE": json_kernels.REAL, "FLOAT": json_kernels.REAL,
    "INT64": json_kernels.WHOLE, "INT32": json_kernels.WHOLE,
    "BOOL": json_kernels.TRUTH, "UNIX_TIMESTAMP": json_kernels.SECONDS,
}  # fmt: skip
_BETWEEN = [b'],"statuses":[%b],"event_timestamps":[' % text for text in STATUS_TEXTS]
_BETWEEN_TEXT = np.frombuffer(b"".join(_BETWEEN), np.uint8)
_BETWEEN_AT = np.cumsum([0, *map(len, _BETWEEN)])
#: A feature of an answer is at most so long.
_FEATURE_BYTES = (
    len(b'{"values":[]},') + json_kernels.NUMBER_BYTES + max(map(len, _BETWEEN))
    + json_kernels.TIME_BYTES
)  # fmt: skip


class SingleEntities:
    """Answers to requests for some features of one entity each."""

    def __init__(self, plan: FeaturePlan, readers: Sequence[RowColumns | WindowColumns]) -> None:
        self._readers = readers
        starts = [0, *accumulate(len(reader.types) for reader in readers)]
        #: Of each read, its rows among the statuses.
        self.places = [slice(*pair) for pair in pairwise(starts)]
        row_readers = [reader for reader in readers if isinstance(reader, RowColumns)]
        self._rows = RowWords(row_readers) if len(row_readers) == len(readers) else None
        rows = []
        for output in plan.outputs:
            reader, start = readers[output.read], starts[output.read]
            row = start + (reader.word_rows or [])[output.at]
            how = _HOW[reader.types[output.at]]
            rows.append((row, start + output.at, output.read, how))
        self._outputs = np.array(rows, np.int64)
        types = [[field.type for field in read.reader.view.features] for read in plan.reads]
        self._cell_sizes = [
            sum(struct.calcsize(FIXED_TYPES.get(t, "")) for t in one) for one in types
        ]
        self._loggable = all(
            read.reader.view.kind == "row" and "UNIX_TIMESTAMP" not in one
            for read, one in zip(plan.reads, types, strict=True)
        )
        self._room = np.empty(0, np.uint8)

    @staticmethod
    def fits(plan: FeaturePlan, readers: Sequence[RowColumns | WindowColumns]) -> bool:
        """Whether a plan has only what this can answer."""
        return (
            bool(readers)
            and not plan.on_demand
            and all(
                reader.word_rows is not None and all(t in _HOW for t in reader.types)
                for reader in readers
            )
        )

    def read(self, data: Sequence[Sequence[bytes | None]], now_us: int) -> Words:
        """The words of all reads; `data` are the values that Redis gave each request."""
        columns = [[row[at] for row in data] for at in range(len(self._readers))]
        if self._rows is not None:
            return self._rows.read([*chain.from_iterable(columns)], now_us)
        found = [r.words(column, now_us) for r, column in zip(self._readers, columns, strict=True)]
        if len(found) == 1:
            return found[0]
        words, status, event_us, nulls, _ = zip(*found, strict=True)
        return Words(
            np.concatenate(words), np.concatenate(status), np.concatenate(event_us),
            (sum(each[0] for each in nulls), sum(each[1] for each in nulls)), found[0].joined,
        )  # fmt: skip

    def cells(self, data: Sequence[Sequence[bytes | None]], found: Words) -> list[bytes] | None:
        """Each request's cells of all views, for the feature log; None where it takes columns."""
        if not self._loggable or found.nulls[0]:
            return None
        return [
            b"".join([row[-size:] for row, size in zip(one, self._cell_sizes, strict=True) if row])
            for one in data
        ]

    def write(self, heads: Sequence[bytes], found: Words) -> list[bytes]:
        """The answers' bodies; `heads` are their texts up to the first feature."""
        sizes = np.array([*map(len, heads)], np.int64)
        text = b"".join(heads)
        room = len(text) + len(heads) * (len(self._outputs) + 1) * _FEATURE_BYTES
        if room > len(self._room):
            self._room = np.empty(room, np.uint8)
        ends = np.empty(len(heads), np.int64)
        json_kernels.write_vectors(
            np.frombuffer(text, np.uint8), sizes, found.words, found.status, found.event_us,
            self._outputs, _BETWEEN_TEXT, _BETWEEN_AT, self._room, ends,
        )  # fmt: skip
        written, start, bodies = self._room.data, 0, []
        for end in ends.tolist():
            bodies.append(bytes(written[start:end]))
            start = end
        return bodies


def warm() -> None:
    """Load the compiled loops that write answers."""
    words, room = np.zeros((1, 1), np.int64), np.empty(_FEATURE_BYTES * 2, np.uint8)
    json_kernels.write_vectors(
        np.frombuffer(b"", np.uint8), np.zeros(1, np.int64), words, np.zeros((1, 1), np.uint8),
        words, np.zeros((1, 4), np.int64), _BETWEEN_TEXT, _BETWEEN_AT, room, np.empty(1, np.int64),
    )  # fmt: skip
