"""Records of served requests as rows of the feature log. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headwater.arrow import TIMESTAMP, array_of, key_type
from headwater.offline.feature_log import (
    STATUS_CODES,
    LoggedRead,
    LogPlan,
    provenance_column,
    replaced_column,
    system_columns,
    titled,
)
from headwater.offline.log_segments import Many, ReadRecord, Record, Turn
from headwater.online.arrays import feature_array
from headwater.online.columns import Block, Int64, Joined, ViewColumns, Words, columns_of
from headwater.online.provenance import Origins, Provenance, row_columns
from headwater.online.values import ViewReader
from headwater.quality.budgets import budgets

_NOTHING = Joined(b"", 0)
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
        self._readers = [
            columns_of(ViewReader(plan.catalog.project, view), read.features)
            for view, read in zip(views, plan.reads, strict=True)
        ]
        ends = np.cumsum([0, *(len(read.features) for read in plan.reads)]).tolist()
        self._features = [slice(*pair) for pair in pairwise(ends)]
        #: Why the first of the requests that were left out cannot be written.
        self.fault = ""

    def tables(
        self, records: Sequence[Record], wholes: Sequence[int | None], name: str
    ) -> list[pa.Table]:
        """The log's rows of some requests; those that cannot be written are left out (`fault`).

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
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            if len(rows) == 1:
                self.fault = self.fault or f"{type(error).__name__}: {error}"
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
        if isinstance(records[0], Turn):
            found, made_of = self._of_turns(records, sizes)  # type: ignore[arg-type]
        else:
            found, made_of = self._of_requests(records, sizes)  # type: ignore[arg-type]
        for place, read in enumerate(self._plan.reads):
            columns |= self._values(read, place, found[place], len(times))
            columns[provenance_column(read)] = made_of[place]
            if self._replacing[place]:
                columns[replaced_column(read)] = _replaced(records, place)
        columns |= self._on_demand(records, times)
        request = pa.array([*chain.from_iterable(map(_request_ids, rows))])
        wholes = pa.array([whole for _, whole, _ in rows], pa.int32()).take(of_each)
        version = self._plan.catalog.version
        return pa.table(columns | system_columns(times, request, wholes, version))

    def _of_turns(
        self, records: Sequence[Turn], sizes: Int64
    ) -> tuple[list[ViewColumns], list[pa.Array]]:
        """Of each read its columns, and what they were made of."""
        n, n_features = int(sizes.sum()), self._features[-1].stop
        words = _rows([r.words for r in records], np.int64, n, n_features)
        event_us = _rows([r.event_us for r in records], np.int64, n, len(self._readers))
        status = None
        if any(r.status is not None for r in records):
            codes = [bytes(r.n * n_features) if r.status is None else r.status for r in records]
            status = _rows(codes, np.uint8, n, n_features)
        none = np.zeros((n_features, 0), np.uint8)
        found = []
        for place, (reader, at) in enumerate(zip(self._readers, self._features, strict=True)):
            of_read = Words(
                words[at], (none if status is None else status)[at], event_us[place : place + 1],
                (int(status is not None), 0), _NOTHING,
            )  # fmt: skip
            found.append(reader.columns(of_read))
        if len(records[0].origins) < len(self._readers):
            parts = [Origins(*record.origins[0]) for record in records]
            return found, row_columns(self._provenance, parts, sizes)
        made_of = [
            reader.column_of([Origins(*r.origins[place]) for r in records], sizes.tolist())
            for place, reader in enumerate(self._provenance)
        ]
        return found, made_of

    def _of_requests(
        self, records: Sequence[Many], sizes: Int64
    ) -> tuple[list[ViewColumns], list[pa.Array]]:
        """As `_of_turns`."""
        reads = [[record.reads[place] for record in records] for place in range(len(self._readers))]
        found = [merged(parts, sizes) for parts in reads]
        made_of = [
            reader.column_of([Origins(*part.origins) for part in parts], sizes.tolist())
            for reader, parts in zip(self._provenance, reads, strict=True)
        ]
        return found, made_of

    def _values(
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
    if isinstance(record, Turn):
        return None
    return tuple([tuple([block[:2] for block in read.blocks]) for read in record.reads])


def _request_ids(row: _Row) -> list[str]:
    """Of each vector of a record."""
    record, _, name = row
    if isinstance(record, Turn):
        return [f"{name}-{j}" for j in range(record.n)]
    return [name] * record.n


def _chained(records: Sequence[Record], name: str) -> list[Any]:
    return list(chain.from_iterable([record.entities[name] for record in records]))


def _rows(parts: Sequence[bytes], kind: Any, n: int, columns: int) -> Any:
    """Rows [n, columns] of several records, as columns [columns, n]."""
    return np.frombuffer(b"".join(parts), kind).reshape(n, columns).T


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
