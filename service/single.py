"""Requests for one entity each: most requests, many of them answered by one call.

The general way (`service.prepared`) makes columns and texts of them, which for one entity costs
more than the values. Here requests for the same features that Redis answered in one turn of the
event loop are read like one request for all their entities, and compiled loops write every answer
whole.
Only numbers, truths and times fit; what does not is left to the general way, which answers alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import NamedTuple

import numpy as np

from headwater import json_kernels
from headwater.online.columns import (
    Int64,
    Joined,
    RowColumns,
    RowWords,
    WindowColumns,
    Words,
    joined_rows,
)
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


class Turn(NamedTuple):
    """Requests for the same features of n entities, one each, as read together.

    words: of all reads, one below the other; event_us is [reads, n]. joined: what each read was
    made of, or where all are of packed rows, all of them at once, read by read.
    """

    words: Words
    joined: tuple[Joined, ...]

    @property
    def sizes(self) -> Int64:
        """Of what Redis held, read by read, 0 for nothing."""
        if len(self.joined) == 1:
            return self.joined[0].sizes  # type: ignore[return-value]
        return np.concatenate([each.sizes for each in self.joined])


class SingleEntities:
    """Answers to requests for some features of one entity each."""

    def __init__(self, plan: FeaturePlan, readers: Sequence[RowColumns | WindowColumns]) -> None:
        self._readers = readers
        starts = [0, *accumulate(len(reader.types) for reader in readers)]
        row_readers = [reader for reader in readers if isinstance(reader, RowColumns)]
        self._rows = RowWords(row_readers) if len(row_readers) == len(readers) else None
        rows = []
        for output in plan.outputs:
            reader, start = readers[output.read], starts[output.read]
            row = start + (reader.word_rows or [])[output.at]
            how = _HOW[reader.types[output.at]]
            rows.append((row, start + output.at, output.read, how))
        self._outputs = np.array(rows, np.int64)
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

    def read(self, data: Sequence[Sequence[bytes | None]], now_us: int) -> Turn:
        """What was asked for; `data` are the values that Redis gave each request."""
        columns = self._columns(data)
        if self._rows is not None:
            found = self._rows.read([*chain.from_iterable(columns)], now_us)
            return Turn(found, (found.joined,))
        read = [r.words(column, now_us) for r, column in zip(self._readers, columns, strict=True)]
        joined = tuple(each.joined for each in read)
        if len(read) == 1:
            return Turn(read[0], joined)
        words, status, event_us, nulls, _ = zip(*read, strict=True)
        found = Words(
            np.concatenate(words), np.concatenate(status), np.concatenate(event_us),
            (sum(each[0] for each in nulls), sum(each[1] for each in nulls)), joined[0],
        )  # fmt: skip
        return Turn(found, joined)

    def some(self, data: Sequence[Sequence[bytes | None]], turn: Turn, at: Sequence[int]) -> Turn:
        """Some of the requests that were read together from `data`."""
        found = turn.words
        words = found._replace(
            words=found.words[:, at], status=found.status[:, at], event_us=found.event_us[:, at]
        )
        columns = self._columns([data[i] for i in at])
        if self._rows is not None:
            return Turn(words, (joined_rows([*chain.from_iterable(columns)]),))
        joined = [r.joined(column) for r, column in zip(self._readers, columns, strict=True)]
        return Turn(words, tuple(joined))

    def _columns(self, data: Sequence[Sequence[bytes | None]]) -> list[list[bytes | None]]:
        """What Redis held, read by read."""
        return [[row[at] for row in data] for at in range(len(self._readers))]

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
