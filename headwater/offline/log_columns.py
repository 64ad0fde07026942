"""Records of served requests as rows of the feature log. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headwater.arrow import TIMESTAMP, array_of, arrow_type, key_type
from headwater.codec import FIXED_TYPES
from headwater.offline.feature_log import (
    STATUS_CODES,
    LoggedRead,
    LogPlan,
    provenance_column,
    replaced_column,
    system_columns,
    titled,
)
from headwater.offline.log_segments import Many, One, ReadRecord, Record
from headwater.online.arrays import feature_array
from headwater.online.columns import Block, ViewColumns
from headwater.online.provenance import Origins, Provenance
from headwater.quality.budgets import budgets

#: A record, and the `__whole` and `__request_id` of its vectors.
_Row = tuple[Record, int | None, str]


class LogColumns:
    """Makes the log's tables for one plan."""

    def __init__(self, plan: LogPlan) -> None:
        self._plan = plan
        views = [plan.view(read) for read in plan.reads]
        self._replacing = [any(b.replaces for b in budgets(view)) for view in views]
        self._provenance = [Provenance(view, plan.catalog.streams) for view in views]
        self._types = [{f.name: f.type for f in view.features} for view in views]
        self._cells = np.dtype(
            [
                (f"{i}:{f.name}", "<" + FIXED_TYPES.get(f.type, "q"))
                for i, view in enumerate(views)
                for f in view.features
            ]
        )

    def tables(
        self, records: Sequence[Record], wholes: Sequence[int | None], name: str
    ) -> list[pa.Table]:
        """The log's rows of some requests; those that cannot be written are left out.

        wholes: the `__whole` of each. name: what the ids of the requests begin with.
        """
        groups: dict[Any, list[_Row]] = {}
        for i, (record, whole) in enumerate(zip(records, wholes, strict=True)):
            groups.setdefault(_shape(record), []).append((record, whole, f"{name}-{i}"))
        return [table for rows in groups.values() for table in self._made(rows)]

    def _made(self, rows: Sequence[_Row]) -> list[pa.Table]:
        """As `tables`, of alike requests; values of no type that fits cost their request alone."""
        try:
            return [self._table(rows)]
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            if len(rows) == 1:
                return []
            middle = len(rows) // 2
            return self._made(rows[:middle]) + self._made(rows[middle:])

    def _table(self, rows: Sequence[_Row]) -> pa.Table:
        records = [record for record, _, _ in rows]
        sizes = np.array([record.n for record in records], np.int64)
        of_each = pa.array(np.repeat(np.arange(len(rows)), sizes))
        times = pa.array(np.array([record.now_us for record in records])).take(of_each)
        columns: dict[str, pa.Array] = {}
        for column, kind in self._plan.key_types().items():
            columns[column] = pa.array(_chained(records, column), key_type(kind))
        for column, kind in self._plan.request_types().items():
            columns[column] = array_of(_chained(records, column), kind)
        if isinstance(records[0], One):
            cells = np.frombuffer(b"".join([r.cells for r in records]), self._cells)  # type: ignore[union-attr]
        for place, read in enumerate(self._plan.reads):
            provenance = self._made_of(records, place, sizes)
            if isinstance(records[0], One):
                columns |= self._fixed(read, place, cells, provenance)
            else:
                found = merged([record.reads[place] for record in records], sizes)  # type: ignore[union-attr]
                columns |= self._general(read, place, found, len(times))
            columns[provenance_column(read)] = provenance
            if self._replacing[place]:
                columns[replaced_column(read)] = _replaced(records, place)
        columns |= self._on_demand(records, times)
        request = pa.array([*chain.from_iterable(map(_request_ids, rows))])
        wholes = pa.array([whole for _, whole, _ in rows], pa.int32()).take(of_each)
        version = self._plan.catalog.version
        return pa.table(columns | system_columns(times, request, wholes, version))

    def _made_of(self, records: Sequence[Record], place: int, sizes: Any) -> pa.Array:
        """What the values of one read were made of."""
        reader = self._provenance[place]
        if isinstance(records[0], One):
            return reader.column([record.rows[place] for record in records])  # type: ignore[union-attr]
        parts = [Origins(*record.reads[place].origins) for record in records]  # type: ignore[union-attr]
        return reader.column_of(parts, sizes.tolist())

    def _fixed(
        self, read: LoggedRead, place: int, rows: Any, provenance: pa.Array
    ) -> dict[str, pa.Array]:
        """Rows of cells, all PRESENT."""
        columns: dict[str, pa.Array] = {}
        event = provenance.field("event_timestamp")
        status = pa.repeat(pa.scalar(STATUS_CODES[0], pa.int32()), len(rows))
        for feature, title in titled(read).items():
            cells = np.ascontiguousarray(rows[f"{place}:{feature}"])
            columns[title] = pa.array(cells).cast(arrow_type(self._types[place][feature]))
            columns[f"{title}__timestamp"], columns[f"{title}__status"] = event, status
        return columns

    def _general(
        self, read: LoggedRead, place: int, found: ViewColumns, n: int
    ) -> dict[str, pa.Array]:
        columns: dict[str, pa.Array] = {}
        times = np.asarray(found.event_us, np.int64)
        event = pa.array(times, mask=times == 0).cast(TIMESTAMP)
        present = pa.repeat(pa.scalar(STATUS_CODES[0], pa.int32()), n)
        for at, (feature, title) in enumerate(titled(read).items()):
            columns[title], codes = feature_array(found, at, self._types[place][feature], n)
            columns[f"{title}__timestamp"] = event
            columns[f"{title}__status"] = (
                present if found.status is None
                else pa.array(codes.astype(np.int32) + STATUS_CODES[0])
            )  # fmt: skip
        return columns

    def _on_demand(self, records: Sequence[Record], times: pa.Array) -> dict[str, pa.Array]:
        columns: dict[str, pa.Array] = {}
        for i, name in enumerate(self._plan.on_demand):
            for field in self._plan.catalog.on_demand[name].features:
                made = [record.computed[i][field.name] for record in records]  # type: ignore[union-attr]
                title = f"{name}__{field.name}"
                columns[title] = array_of(list(chain.from_iterable(made)), field.type)
                columns[f"{title}__timestamp"] = times.cast(TIMESTAMP)
                codes = pc.if_else(columns[title].is_null(), STATUS_CODES[1], STATUS_CODES[0])
                columns[f"{title}__status"] = codes.cast(pa.int32())
        return columns


def _replaced(records: Sequence[Record], place: int) -> pa.Array:
    """Of each entity whether a budget replaced its values."""
    flags = [
        record.replaced[place]
        if isinstance(record, Many) and place in record.replaced
        else bytes(record.n)
        for record in records
    ]
    return pa.array(np.frombuffer(b"".join(flags), np.bool_))


def _shape(record: Record) -> Any:
    """Records of one shape can be put together: their features lie in the same places."""
    if isinstance(record, One):
        return None
    return tuple([tuple([block[:2] for block in read.blocks]) for read in record.reads])


def _request_ids(row: _Row) -> list[str]:
    """Of each vector of a record."""
    record, _, name = row
    if isinstance(record, Many) and record.apart:
        return [f"{name}-{j}" for j in range(record.n)]
    return [name] * record.n


def _chained(records: Sequence[Record], name: str) -> list[Any]:
    return list(chain.from_iterable([record.entities[name] for record in records]))


def merged(parts: Sequence[ReadRecord], sizes: Any) -> ViewColumns:
    """Columns of several requests one after the other; all have the same blocks."""
    first = parts[0]
    features = sum(len(at) for at, _, _ in first.blocks) + len(first.lists)
    blocks = [
        Block(at, _beside([part.blocks[i][2] for part in parts], np.dtype(kind), len(at), sizes))
        for i, (at, kind, _) in enumerate(first.blocks)
    ]
    lists = {at: list(chain.from_iterable([p.lists[at] for p in parts])) for at in first.lists}
    status = None
    if any(part.status is not None for part in parts):
        codes = [
            bytes(features * n) if part.status is None else part.status
            for part, n in zip(parts, sizes.tolist(), strict=True)
        ]
        status = _beside(codes, np.dtype(np.uint8), features, sizes)
    times = np.frombuffer(b"".join([part.event_us for part in parts]), np.int64)
    return ViewColumns(blocks, lists, status, times)


def _beside(parts: Sequence[bytes], kind: np.dtype[Any], rows: int, sizes: Any) -> Any:
    """Arrays [rows, n] of several requests side by side."""
    data = np.frombuffer(b"".join(parts), kind)
    if (sizes == sizes[0]).all():
        n = int(sizes[0])
        return data.reshape(len(parts), rows, n).transpose(1, 0, 2).reshape(rows, len(parts) * n)
    cuts = np.cumsum(sizes * rows)[:-1]
    return np.concatenate([part.reshape(rows, -1) for part in np.split(data, cuts)], 1)
