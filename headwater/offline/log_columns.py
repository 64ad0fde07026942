"""Records of served requests as rows of the feature log. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headwater.arrow import TIMESTAMP, array_of, key_type
from headwater.codec import key_values
from headwater.errors import BadRequestError
from headwater.offline.feature_log import (
    STATUS_CODES,
    LoggedRead,
    LogPlan,
    provenance_column,
    replaced_column,
    system_columns,
    titled,
)
from headwater.offline.log_segments import Block, Many, ReadRecord, Record, Rows
from headwater.online.arrays import feature_array
from headwater.online.columns import Block as Columns
from headwater.online.columns import Int64, Joined, RowColumns, ViewColumns, Words, columns_of
from headwater.online.provenance import WINDOW_TYPE, Origins, Provenance
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
        #: Why the first of those that were left out cannot be written.
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
        columns: dict[str, pa.Array] = {}
        for column, kind in self._plan.key_types().items():
            columns[column] = _key_column(records, column, kind)
        for column, kind in self._plan.request_types().items():
            columns[column] = array_of(_chained(records, column), kind)
        first = records[0]
        many: Any = records  # of one kind
        if isinstance(first, Many):
            times = pa.array(np.array([record.now_us for record in many])).take(of_each)
            request = pa.array([name for _, _, name in rows]).take(of_each)
            found, made_of = self._of_requests(many, sizes)
        else:
            times = pa.array(_joined([record.now_us for record in many], np.int64))
            request = _request_ids(many, [name for _, _, name in rows], sizes)
            made = self._of_blocks if isinstance(first, Block) else self._of_rows
            found, made_of = made(many, sizes)
        for place, read in enumerate(self._plan.reads):
            columns |= self._values(read, place, found[place], len(times))
            columns[provenance_column(read)] = made_of[place]
            if self._replacing[place]:
                columns[replaced_column(read)] = _replaced(records, place)
        columns |= self._on_demand(records, times)
        wholes = pa.array([whole for _, whole, _ in rows], pa.int32()).take(of_each)
        version = self._plan.catalog.version
        table = pa.table(columns | system_columns(times, request, wholes, version))
        for column, kind in self._plan.key_types().items():
            if columns[column].null_count:
                at = pc.index(columns[column].is_null(), True).as_py()
                value = _chained(records, column)[at]
                self.fault = self.fault or f"the key {column!r} is {value!r}, which is no {kind}"
                table = table.filter(table[column].is_valid())
        return table

    def _of_blocks(
        self, records: Sequence[Block], sizes: Int64
    ) -> tuple[list[ViewColumns], list[pa.Array]]:
        """Of each read its columns, and what they were made of."""
        n_features, n_reads = self._features[-1].stop, len(self._readers)
        words = _beside([r.words for r in records], np.int64, n_features, sizes)
        event_us = _beside([r.event_us for r in records], np.int64, n_reads, sizes)
        status = None
        if any(len(r.status) for r in records):
            codes = [r.status if len(r.status) else bytes(r.n * n_features) for r in records]
            status = _beside(codes, np.uint8, n_features, sizes)
        none = np.zeros((n_features, 0), np.uint8)
        found = []
        for place, (reader, at) in enumerate(zip(self._readers, self._features, strict=True)):
            of_read = Words(
                words[at], (none if status is None else status)[at], event_us[place : place + 1],
                (int(status is not None), 0), _NOTHING,
            )  # fmt: skip
            found.append(reader.columns(of_read))
        origins = [self._origins_of(record) for record in records]
        made_of = [
            reader.column_of([parts[place] for parts in origins], sizes.tolist())
            for place, reader in enumerate(self._provenance)
        ]
        return found, made_of

    def _of_rows(
        self, records: Sequence[Rows], sizes: Int64
    ) -> tuple[list[ViewColumns], list[pa.Array]]:
        """As `_of_blocks`."""
        found, made_of, counts = [], [], sizes.tolist()
        starts = [0] * len(records)
        for reader, size, provenance in zip(
            self._readers, records[0].sizes, self._provenance, strict=True
        ):
            ends = [at + n * size for at, n in zip(starts, counts, strict=True)]
            parts = [
                record.rows[at:end] for record, at, end in zip(records, starts, ends, strict=True)
            ]
            assert isinstance(reader, RowColumns)  # noqa: S101 (they are rows)
            columns, rows = reader.of_parts(parts)
            found.append(columns)
            made_of.append(provenance.column_of_rows(rows))
            starts = ends
        return found, made_of

    def _origins_of(self, record: Block) -> list[Origins]:
        """Of each read what the block's values were made of."""
        counts = np.frombuffer(record.counts, np.int32).reshape(-1, record.n).astype(np.int64)
        found, at = [], 0
        for reader, own in zip(self._provenance, counts, strict=True):
            windows = reader.type == WINDOW_TYPE
            end = at + int(own.sum()) * (16 if windows else 1)
            data = record.origins[at:end]
            found.append(Origins(own.tobytes() + data, 0) if windows else Origins(data, own.data))
            at = end
        return found

    def _of_requests(
        self, records: Sequence[Many], sizes: Int64
    ) -> tuple[list[ViewColumns], list[pa.Array]]:
        """As `_of_blocks`."""
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
            columns[title], codes = feature_array(found, at, self._types[place][feature])
            columns[f"{title}__timestamp"] = event
            columns[f"{title}__status"] = (
                present if codes is None else pa.array(codes.astype(np.int32) + STATUS_CODES[0])
            )
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
    if isinstance(record, Block):
        return None
    if isinstance(record, Rows):
        return tuple(record.sizes)
    return tuple([tuple([block[:2] for block in read.blocks]) for read in record.reads])


def _chained(records: Sequence[Record], name: str) -> list[Any]:
    parts = [record.entities[name] for record in records]
    return list(chain.from_iterable(_numbers(p) if isinstance(p, bytes) else p for p in parts))


def _numbers(part: bytes) -> list[int]:
    numbers: list[int] = np.frombuffer(part, np.int64).tolist()
    return numbers


def _key_column(records: Sequence[Record], name: str, kind: str) -> pa.Array:
    parts = [record.entities[name] for record in records]
    numbers = [part for part in parts if isinstance(part, bytes)]
    if len(numbers) == len(parts):
        return pa.array(np.frombuffer(b"".join(numbers), np.int64))
    return _keys(_chained(records, name), kind)


def _keys(values: list[Any], kind: str) -> pa.Array:
    """Values of a key column, times in microseconds; null for those of no type that fits."""
    try:
        return pa.array(key_values(kind, values), key_type(kind))
    except (pa.ArrowException, BadRequestError, TypeError, ValueError, OverflowError):
        if len(values) == 1:
            return pa.nulls(1, key_type(kind))
        middle = len(values) // 2
        return pa.concat_arrays([_keys(values[:middle], kind), _keys(values[middle:], kind)])


def _request_ids(records: Sequence[Block | Rows], names: Sequence[str], sizes: Int64) -> pa.Array:
    """Of each vector the id of its request: the record's name and its number there."""
    numbers = _joined([record.request for record in records], np.int32)
    record = np.repeat(np.arange(len(records)), sizes)
    new = np.ones(len(numbers), np.bool_)
    new[1:] = (numbers[1:] != numbers[:-1]) | (record[1:] != record[:-1])
    prefixes = pa.array(names).take(pa.array(record[new]))
    ids = pc.binary_join_element_wise(prefixes, pa.array(numbers[new]).cast(pa.string()), "-")
    return ids if new.all() else ids.take(pa.array(np.cumsum(new) - 1))


def _joined(parts: Sequence[memoryview], kind: Any) -> Any:
    return np.frombuffer(b"".join(parts), kind)


def merged(parts: Sequence[ReadRecord], sizes: Any) -> ViewColumns:
    """Columns of several requests one after the other; all have the same blocks."""
    first = parts[0]
    features = sum(len(at) for at, _, _ in first.blocks) + len(first.lists)
    blocks = [
        Columns(at, _beside([part.blocks[i][2] for part in parts], kind, len(at), sizes))
        for i, (at, kind, _) in enumerate(first.blocks)
    ]
    lists = {at: list(chain.from_iterable([p.lists[at] for p in parts])) for at in first.lists}
    status = None
    if any(part.status is not None for part in parts):
        codes = [
            bytes(features * n) if part.status is None else part.status
            for part, n in zip(parts, sizes.tolist(), strict=True)
        ]
        status = _beside(codes, np.uint8, features, sizes)
    times = np.frombuffer(b"".join([part.event_us for part in parts]), np.int64)
    return ViewColumns(blocks, lists, status, times)


def _beside(parts: Sequence[bytes | memoryview], kind: Any, rows: int, sizes: Int64) -> Any:
    """Arrays [rows, n] of several records side by side."""
    size = np.dtype(kind).itemsize
    whole = np.empty((rows, int(sizes.sum()) * size), np.uint8)
    at = 0
    for part, n in zip(parts, sizes.tolist(), strict=True):
        whole[:, at : at + n * size] = np.frombuffer(part, np.uint8).reshape(rows, n * size)
        at += n * size
    return whole.view(kind)
