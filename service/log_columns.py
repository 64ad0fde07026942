"""Served vectors as rows of the feature log: what many requests recorded, put together. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headwater.arrow import TIMESTAMP, arrow_type
from headwater.catalog import Catalog
from headwater.codec import FIXED_TYPES
from headwater.offline.feature_log import (
    STATUS_CODES,
    LoggedRead,
    LogPlan,
    log_plan,
    provenance_column,
    replaced_column,
    system_columns,
    titled,
)
from headwater.online.columns import Block, Joined, ViewColumns
from headwater.online.provenance import Provenance
from headwater.quality.budgets import budgets
from service.arrow import array_of, feature_array, key_type
from service.found import Found
from service.requests import FeaturePlan


class Record(NamedTuple):
    """One request: its time, its entities, what Redis held, and what was made of it.

    `data` is empty where `served` holds what it was read from.
    `served` is the cells of one entity's rows (see `service.single`), or the columns of each read,
    the features of each on-demand view, and what was replaced.
    """

    now_us: int
    n: int
    entities: Mapping[str, Sequence[Any]]
    data: Sequence[bytes | None]
    served: bytes | Found


class LogColumns:
    """Makes the log's tables for one plan."""

    def __init__(self, catalog: Catalog, service: str, plan: FeaturePlan) -> None:
        self._plan = plan
        # A view that is read twice under one name has one set of columns.
        self._places: dict[str, int] = {}
        for place, read in enumerate(plan.reads):
            self._places.setdefault(read.alias, place)
        self._reads = [
            LoggedRead(read.reader.view.name, read.alias, read.features, read.columns)
            for read in (plan.reads[place] for place in self._places.values())
        ]
        self.log_plan: LogPlan = log_plan(
            catalog, service, self._reads, [view.name for view in plan.on_demand]
        )
        views = [read.reader.view for read in plan.reads]
        self._replacing = [any(b.replaces for b in budgets(view)) for view in views]
        self._provenance = [Provenance(view, catalog.streams) for view in views]
        self._types = [{f.name: f.type for f in view.features} for view in views]
        self._cells: np.dtype[Any] | None = None
        if all(f.type in FIXED_TYPES for view in views for f in view.features):
            self._cells = np.dtype(
                [
                    (f"{i}:{f.name}", "<" + FIXED_TYPES[f.type])
                    for i, view in enumerate(views)
                    for f in view.features
                ]
            )

    def provenances(self, data: Sequence[bytes | None], n: int) -> dict[str, pa.Array]:
        """View -> the provenance of one request's values."""
        return {
            read.alias: self._provenance[place].column(data[place * n : (place + 1) * n])
            for read, place in zip(self._reads, self._places.values(), strict=True)
        }

    def described(self, data: Sequence[bytes | None], n: int) -> dict[str, Any]:
        """The same for an answer in JSON."""
        return {
            read.alias: self._provenance[place].describe(data[place * n : (place + 1) * n])
            for read, place in zip(self._reads, self._places.values(), strict=True)
        }

    def tables(
        self, records: Sequence[Record], whole: int | None, names: Callable[[int], pa.Array]
    ) -> tuple[list[pa.Table], int]:
        """The log's rows of some requests, and how many vectors cannot be written.

        whole: the `__whole` of all of them. names: makes so many ids of requests.
        """
        groups: dict[Any, list[Record]] = {}
        for record in records:
            groups.setdefault(_shape(record), []).append(record)
        tables, failed = [], 0
        for group in groups.values():
            made, lost = self._made(group, whole, names)
            tables += made
            failed += lost
        return tables, failed

    def _made(
        self, records: Sequence[Record], whole: int | None, names: Callable[[int], pa.Array]
    ) -> tuple[list[pa.Table], int]:
        """As `tables`, of alike requests; values of no type that fits cost their request alone."""
        try:
            return [self._table(records, whole, names)], 0
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            if len(records) == 1:
                return [], records[0].n
            middle = len(records) // 2
            low, failed = self._made(records[:middle], whole, names)
            high, more = self._made(records[middle:], whole, names)
            return low + high, failed + more

    def _table(
        self, records: Sequence[Record], whole: int | None, names: Callable[[int], pa.Array]
    ) -> pa.Table:
        sizes = np.fromiter((record.n for record in records), np.int64, len(records))
        n = int(sizes.sum())
        times = pa.array(np.repeat([record.now_us for record in records], sizes))
        columns: dict[str, pa.Array] = {}
        kinds = {k: key_type(t) for k, t in self._plan.key_types.items()}
        for column, kind in kinds.items():
            columns[column] = pa.array(_chained(records, column), kind)
        for column, kind in self._plan.request_types.items():
            columns[column] = array_of(_chained(records, column), kind)
        rows = self._cell_rows(records)
        for read, place in zip(self._reads, self._places.values(), strict=True):
            provenance = self._provenance[place].column_of(self._joined(records, place))
            if rows is not None:
                columns |= self._fixed(read, place, rows, provenance)
            else:
                found = merged([_found(record).columns[place] for record in records], sizes)
                columns |= self._general(read, place, found, n)
            columns[provenance_column(read)] = provenance
            if self._replacing[place]:
                columns[replaced_column(read)] = _replaced(records, place)
        columns |= self._on_demand(records, times)
        request = names(len(records)).take(pa.array(np.repeat(np.arange(len(records)), sizes)))
        wholes = pa.repeat(pa.scalar(whole, pa.int32()), n)
        return pa.table(columns | system_columns(times, request, wholes, self.version))

    def _joined(self, records: Sequence[Record], place: int) -> list[Joined]:
        """What Redis held for one read, in pieces: as it was joined to be read, if it was."""
        parts: list[Joined] = []
        waiting: list[bytes | None] = []
        for record in records:
            whole = (
                None if isinstance(record.served, bytes) else record.served.columns[place].joined
            )
            if whole is None:
                waiting += record.data[place * record.n : (place + 1) * record.n]
                continue
            if waiting:
                parts.append(self._provenance[place].joined(waiting))
                waiting = []
            parts.append(whole)
        return [*parts, self._provenance[place].joined(waiting)] if waiting else parts

    @property
    def version(self) -> str:
        return self.log_plan.catalog.version

    def _cell_rows(self, records: Sequence[Record]) -> Any:
        if not isinstance(records[0].served, bytes):
            return None
        return np.frombuffer(b"".join([r.served for r in records]), self._cells)  # type: ignore[misc]

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
        for at, (feature, title) in enumerate(titled(read).items()):
            columns[title], codes = feature_array(found, at, self._types[place][feature], n)
            columns[f"{title}__timestamp"] = event
            columns[f"{title}__status"] = pa.array(codes.astype(np.int32) + STATUS_CODES[0])
        return columns

    def _on_demand(self, records: Sequence[Record], times: pa.Array) -> dict[str, pa.Array]:
        columns: dict[str, pa.Array] = {}
        for i, view in enumerate(self._plan.on_demand):
            for field in view.features:
                made = [_found(record).computed[i][field.name] for record in records]
                title = f"{view.name}__{field.name}"
                columns[title] = array_of(list(chain.from_iterable(made)), field.type)
                columns[f"{title}__timestamp"] = times.cast(TIMESTAMP)
                codes = pc.if_else(columns[title].is_null(), STATUS_CODES[1], STATUS_CODES[0])
                columns[f"{title}__status"] = codes.cast(pa.int32())
        return columns


def _replaced(records: Sequence[Record], place: int) -> pa.Array:
    """Of each entity whether a budget replaced its values."""
    flags = [
        record.served.replaced[place].rows
        if not isinstance(record.served, bytes) and place in record.served.replaced
        else np.zeros(record.n, np.bool_)
        for record in records
    ]
    return pa.array(np.concatenate(flags))


def _found(record: Record) -> Found:
    assert not isinstance(record.served, bytes)  # noqa: S101 (narrows the type for mypy)
    return record.served


#: Where a block's features are: its first field.
_AT = itemgetter(0)


def _shape(record: Record) -> Any:
    """Records of one shape can be put together: their features lie in the same places."""
    if isinstance(record.served, bytes):
        return None
    return tuple([tuple(map(_AT, columns.blocks)) for columns in record.served.columns])


def _chained(records: Sequence[Record], name: str) -> list[Any]:
    if len(records) == 1:
        return list(records[0].entities[name])
    return list(chain.from_iterable([record.entities[name] for record in records]))


def merged(parts: Sequence[ViewColumns], sizes: Any) -> ViewColumns:
    """Columns of several requests one after the other; all have the same blocks."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    blocks = [
        Block(block.at, np.concatenate([part.blocks[i].numbers for part in parts], 1))
        for i, block in enumerate(first.blocks)
    ]
    lists = {at: list(chain.from_iterable([p.lists[at] for p in parts])) for at in first.lists}
    status = None
    if any(part.status is not None for part in parts):
        features = sum(len(block.at) for block in blocks) + len(lists)
        status = np.concatenate(
            [
                np.zeros((features, n), np.uint8) if part.status is None else part.status
                for part, n in zip(parts, sizes, strict=True)
            ],
            1,
        )
    times = np.concatenate([np.asarray(part.event_us, np.int64) for part in parts])
    return ViewColumns(blocks, lists, status, times)
