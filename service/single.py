"""One entity, every value fixed in size and PRESENT: most requests, in a third of the time.

The general way (`service.prepared`) makes columns, which for one entity costs more than the values.
Here the cells of all views are unpacked and encoded together. What does not fit (a row missing,
expired, past an objective, of another layout or with a null; a NaN) is left to the general way,
which answers alike.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

import orjson

from headwater.codec import FIXED_TYPES, HAS_CREATED, HAS_OFFSET
from service.answer import PRESENT_TEXT, Run, time_text
from service.metrics import Tally
from service.requests import FeaturePlan, ViewRead

_TIME = struct.Struct("<q")


class _View(NamedTuple):
    """One view's rows: where cells start by a row's first four bytes, and their size in all."""

    starts: dict[bytes, int]
    size: int
    oldest_us: int


class Single(NamedTuple):
    """The answer's feature columns, with a comma behind each run, and the cells of all views."""

    parts: list[bytes]
    cells: bytes


class SingleEntity:
    """Answers for one entity."""

    def __init__(
        self, plan: FeaturePlan, runs: Sequence[Run], tally: Tally,
        oldest_us: Callable[[int], int],
    ) -> None:  # fmt: skip
        """oldest_us: the age above which values of a read are not simply served; 0: of none."""
        self._views = [_view(read, oldest_us(i)) for i, read in enumerate(plan.reads)]
        types = [[f.type for f in read.reader.view.features] for read in plan.reads]
        self._cells = struct.Struct("<" + "".join(FIXED_TYPES[t] for one in types for t in one))
        starts = [sum(map(len, types[:i])) for i in range(len(types))]
        self._count = sum(map(len, types))
        self._runs: list[tuple[int, list[int] | slice]] = []
        for source, at in runs:
            read = plan.reads[source]
            names = read.reader.view.feature_names
            wanted = range(len(read.features)) if at is None else at
            cells = [starts[source] + names.index(read.features[i]) for i in wanted]
            together = cells == list(range(cells[0], cells[0] + len(cells)))
            self._runs.append(
                (source, slice(cells[0], cells[0] + len(cells)) if together else cells)
            )
        self._tally = tally

    @staticmethod
    def fits(plan: FeaturePlan) -> bool:
        """Whether a plan has only what this can answer."""
        return (
            bool(plan.reads)
            and not plan.on_demand
            and all(
                read.reader.view.kind == "row"
                and all(
                    f.type in FIXED_TYPES and f.type != "UNIX_TIMESTAMP"
                    for f in read.reader.view.features
                )
                for read in plan.reads
            )
        )

    def read(self, data: Sequence[bytes | None], now_us: int) -> Single | None:
        """The answer's feature columns; None where the general way must make them."""
        cells, times = [], []
        for row, (starts, size, oldest_us) in zip(data, self._views, strict=True):
            if row is None:
                return None
            start = starts.get(row[:4])
            if start is None or len(row) != start + size:
                return None
            event_us = _TIME.unpack_from(row, 4)[0]
            if oldest_us and event_us < now_us - oldest_us:
                return None
            cells.append(row[start:])
            times.append(event_us)
        joined = b"".join(cells)
        text = orjson.dumps(self._cells.unpack(joined))
        if b"null" in text:
            return None
        values = text[1:-1].split(b",")
        parts: list[bytes] = []
        for source, at in self._runs:
            end = _END % time_text(times[source])
            wanted = values[at] if type(at) is slice else [values[i] for i in at]
            parts += (b'{"values":[', (end + b'{"values":[').join(wanted), end)
        self._tally.one(times, now_us)
        return Single(parts, joined)


_END = b'],"statuses":[' + PRESENT_TEXT + b'],"event_timestamps":[%b]},'


def _view(read: ViewRead, oldest_us: int) -> _View:
    view = read.reader.view
    size = struct.calcsize("<" + "".join(FIXED_TYPES[f.type] for f in view.features))
    starts = {
        bytes((flags,)) + view.schema_fingerprint: 12 + more
        for flags, more in (
            (0, 0), (HAS_CREATED, 8), (HAS_OFFSET, 12), (HAS_CREATED | HAS_OFFSET, 20),
        )
    }  # fmt: skip
    limits = [limit for limit in (view.ttl_us, oldest_us) if limit]
    return _View(starts, size, min(limits, default=0))
