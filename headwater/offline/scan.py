"""A view's past in batches of just the columns that are asked for, in an order that never varies.

A scan can be repeated, and numbers its rows from 0 alike each time: the joins first find which row
a label needs, by keys and times alone, and then fetch the features of those rows.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from headwater.arrow import TIMESTAMP
from headwater.catalog import BatchSourcePlan, Catalog, ViewPlan
from headwater.errors import HeadwaterError
from headwater.gather import Gather, column_threads
from headwater.offline.files import open_source
from headwater.offline.log import ARRIVED, OFFSET, PARTITION, TOPIC
from headwater.offline.pieces import Piece, batch_piece, stream_pieces
from headwater.offline.sources import (
    CREATED,
    EVENT,
    SEQUENCE,
    connect,
    normalised,
    parsed_times,
    quoted,
)  # fmt: skip
from headwater.transform import columns_made, failing, transform_events
from headwater.windows import Int64, source_id

#: When a row was known: the log's arrival time, else its created time, else its event time.
KNOWN = "__hw_known"
#: `windows.source_id` of the topic and partition that a row came from.
SOURCE = "__hw_source"
#: History's sequence numbers count up from here, below every one of a log.
_HISTORY = -(1 << 62)
#: Names of a source's event and created time, as a scan calls them.
_OWN = {EVENT, CREATED, SEQUENCE, KNOWN, SOURCE}


class Scan:
    """The rows of a view; see the module."""

    def __init__(self, view: ViewPlan, pieces: Sequence[Piece]) -> None:
        self.view, self.pieces = view, list(pieces)
        self.has_created = any(p.created for p in self.pieces)
        #: Is told of the rows read; what it raises stops the scan.
        self.progress: Callable[[int], None] | None = None
        self._types = column_types(view, self.pieces) if view.udf is None else {}

    def limit(self, low_us: int | None, high_us: int | None) -> None:
        for piece in self.pieces:
            piece.limit(low_us, high_us)

    def newest_us(self) -> int | None:
        """The newest event time by the files' statistics, microseconds; None without them."""
        found = [piece.times() for piece in self.pieces]
        times = [last for _, last in filter(None, found)]
        return max(times) if len(times) == len(found) and times else None

    def is_logged(self) -> bool:
        """Whether rows come from a log, whose order is that of its offsets; else as they come."""
        return any(p.kind == "log" and p.data.count_rows() for p in self.pieces)

    def rows(self) -> int:
        """How many rows the sources hold."""
        return sum(int(piece.data.count_rows()) for piece in self.pieces)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Batches with the columns asked for, which may be EVENT, CREATED, SEQUENCE, KNOWN, SOURCE.

        Times are UTC microseconds. Raises HeadwaterError for a column that is not there.
        """
        base = 0
        for piece in self.pieces:
            for batch in self._of_piece(piece, columns):
                found = _numbered(batch, piece, base, columns)
                base += batch.num_rows
                if self.progress:
                    self.progress(batch.num_rows)
                yield found

    def _of_piece(self, piece: Piece, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        udf = self.view.udf
        wanted = [c for c in columns if c not in _OWN] if udf is None else sorted(piece.source_of)
        missing = sorted(set(wanted) - piece.source_of.keys())
        if missing:
            raise HeadwaterError(
                f"view {self.view.name!r}: its source lacks {missing}; "
                f"it has {sorted(piece.source_of)}"
            )
        read = {name: piece.source_of[name] for name in wanted}
        own = _own_columns(piece, columns)
        needed = list(dict.fromkeys([*read.values(), *own]))
        batches = piece.batches(needed)
        if udf is not None and piece.kind == "batch":
            batches = iter([_one(batches, piece, needed)])  # a batch view's is over all its rows
        for batch in batches:
            if not batch.num_rows:
                continue
            out = {name: batch.column(needed.index(source)) for name, source in read.items()}
            out = dict(zip(out, _normal(out), strict=True))
            out = {n: _as(column, self._types.get(n)) for n, column in out.items()}
            inner = {f"\0{name}": batch.column(needed.index(name)) for name in own}
            inner = dict(zip(inner, _normal(inner), strict=True))
            table = pa.RecordBatch.from_arrays([*out.values(), *inner.values()],
                                               names=[*out, *inner])  # fmt: skip
            if piece.before_us is not None:
                before = pa.scalar(piece.before_us, TIMESTAMP)
                table = table.filter(pc.less(_time(table, piece.event), before))
            if udf is not None:
                table = self._transformed(table, list(out))
            yield table

    def _transformed(self, batch: pa.RecordBatch, names: list[str]) -> pa.RecordBatch:
        """The batch after the view's udf; without the events of a stream on which it fails, which
        workers reject and a rebuild leaves out.
        """
        assert self.view.udf is not None  # noqa: S101 (the caller asked)
        own = [n for n in batch.schema.names if n not in names]
        events, makes = pa.table(batch.select(names)), columns_made(self.view)
        try:
            made, rows = transform_events(
                self.view.udf, events, together=not self.view.stream, makes=makes
            )
        except HeadwaterError:
            found = failing(self.view.udf, events, makes=makes) if self.view.stream else ()
            bad = {at for at, _ in found}
            if not bad:
                raise
            sound = pa.array([at for at in range(batch.num_rows) if at not in bad], pa.int64())
            return self._transformed(batch.take(sound), names)
        arrays = [c.combine_chunks() for c in made.columns]
        kept = [batch.column(n).take(pa.array(rows)) for n in own]
        return pa.RecordBatch.from_arrays([*arrays, *kept], names=[*made.column_names, *own])

    def table(self, columns: Sequence[str]) -> pa.Table:
        """All rows at once, by `batches`."""
        found = list(self.batches(columns))
        if not found:
            kinds = dict.fromkeys((EVENT, CREATED, KNOWN), TIMESTAMP) | {SEQUENCE: pa.int64()}
            kinds |= self._types
            return pa.schema([(c, kinds.get(c, pa.null())) for c in columns]).empty_table()
        return pa.concat_tables(
            [pa.Table.from_batches([b]) for b in found], promote_options="permissive"
        )

    def pick(self, columns: Sequence[str], rows: Int64) -> Iterator[pa.RecordBatch]:
        """The named columns of some rows, given in ascending order, batch by batch."""
        at = base = 0
        for batch in self.batches(columns):
            stop = at + int(np.searchsorted(rows[at:], base + batch.num_rows))
            if stop - at == batch.num_rows:
                yield batch
            elif stop > at:
                yield batch.take(pa.array(rows[at:stop] - base))
            at, base = stop, base + batch.num_rows
            if at == len(rows):
                return

    def take(self, columns: Sequence[str], rows: Int64) -> list[pa.Array]:
        """The named columns at rows [n], -1 giving null; in the order of `rows`."""
        order = np.argsort(rows, kind="stable")
        wanted = rows[order]
        first = at = int(np.searchsorted(wanted, 0))
        absent = rows < 0 if first else None
        gathers: list[Gather] | None = None
        base = 0
        threads = column_threads()
        for batch in self.batches(columns):
            end = base + batch.num_rows
            stop = at + int(np.searchsorted(wanted[at:], end))
            if gathers is None:
                gathers = [Gather(len(rows), column.type, absent) for column in batch.columns]
            if stop > at:
                inside, places = wanted[at:stop] - base, order[at:stop]
                adding = [
                    threads.submit(gather.add, batch.column(i), inside, places)
                    for i, gather in enumerate(gathers)
                ]
                for done in adding:
                    done.result()
                at = stop
            base = end
            if at == len(wanted):
                break
        if gathers is None:
            return [pa.nulls(len(rows), self._types.get(name, pa.null())) for name in columns]
        return [gather.finish([order[first:]]) for gather in gathers]


def open_view(catalog: Catalog, view: ViewPlan, versions: Mapping[str, int] | None = None) -> Scan:
    """A view's rows. versions: path -> version of Delta tables that are to be read as they were.

    Raises HeadwaterError where a source is missing or lacks its times.
    """
    held = versions or {}
    if view.stream:
        stream = catalog.streams[view.stream]
        return _checked(Scan(view, stream_pieces(stream, held)))
    if view.batch is None:
        raise HeadwaterError(
            f"view {view.name!r} has no batch source to read its past from; give it one"
        )
    if view.batch.format == "query":
        folder, data = run_query(view.batch, held)
        scan = Scan(view, [batch_piece(view.batch, data)])
        weakref.finalize(scan, shutil.rmtree, folder, ignore_errors=True)
        return _checked(scan)
    data = open_source(view.batch, held.get(view.batch.path))
    return _checked(Scan(view, [batch_piece(view.batch, data)]))


def _checked(scan: Scan) -> Scan:
    for piece in scan.pieces:
        if piece.event not in piece.data.schema.names:
            raise HeadwaterError(
                f"view {scan.view.name!r}: its source has no column {piece.event!r}; "
                f"it has {sorted(piece.data.schema.names)}"
            )
    return scan


def run_query(source: BatchSourcePlan, versions: Mapping[str, int]) -> tuple[str, ds.Dataset]:
    """A query's result, on disk since a scan reads it more than once, and the folder it is in."""
    folder = tempfile.mkdtemp(prefix="headwater-query-")
    target = Path(folder) / "rows.parquet"
    try:
        with connect() as connection:
            _queried(source, connection, versions).write_parquet(str(target))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder, ds.dataset(target)


def query_schema(source: BatchSourcePlan) -> pa.Schema:
    """The columns of a query's result. Raises HeadwaterError where it cannot run."""
    with connect() as connection:
        return _queried(source, connection, {}).limit(0).to_arrow_table().schema


def _queried(source: BatchSourcePlan, connection: Any, versions: Mapping[str, int]) -> Any:
    for table in source.tables:
        connection.register(table.name, open_source(table, versions.get(table.path)))
    try:
        found = connection.sql(source.query)
        return found.project(", ".join(map(_as_feature, found.columns, found.types)))
    except duckdb.Error as error:
        raise HeadwaterError(
            f"source {source.name!r}: its query failed: {error}; "
            f"its tables are {[table.name for table in source.tables]}"
        ) from error


def _as_feature(name: str, kind: Any) -> str:
    """A query's column; integers past 64 bits (what DuckDB sums to) and decimals as numbers."""
    wide, decimal = str(kind) in {"HUGEINT", "UHUGEINT"}, str(kind).startswith("DECIMAL")
    wanted = "BIGINT" if wide else "DOUBLE" if decimal else ""
    return f"CAST({quoted(name)} AS {wanted}) AS {quoted(name)}" if wanted else quoted(name)


def register_sources(catalog: Catalog, text: str, connection: Any) -> None:
    """Make the file sources that a query's text names readable as tables under their names."""
    plans = {v.batch.name: v.batch for v in catalog.views.values() if v.batch}
    plans |= {v.name: v.batch for v in catalog.views.values() if v.batch}
    for name, plan in plans.items():
        if name in text and plan.format != "query":
            connection.register(name, open_source(plan))


def _own_columns(piece: Piece, columns: Sequence[str]) -> list[str]:
    wanted = [piece.event] if {EVENT, KNOWN} & set(columns) or piece.before_us is not None else []
    if piece.created and {CREATED, KNOWN} & set(columns):
        wanted.append(piece.created)
    if piece.kind == "log":
        names = [PARTITION, OFFSET] * (SEQUENCE in columns) + [ARRIVED] * (KNOWN in columns)
        names += [TOPIC, PARTITION] * (SOURCE in columns)
        wanted += [n for n in names if n in piece.data.schema.names]
    return wanted


def _numbered(batch: pa.RecordBatch, piece: Piece, base: int, columns: Sequence[str]) -> Any:
    """The batch's columns as asked for, with the rows' own times and sequence numbers."""
    out = []
    for name in columns:
        if name == SEQUENCE:
            out.append(_sequence(batch, piece, base))
        elif name == SOURCE:
            out.append(_source(batch))
        elif name in _OWN:
            own = {EVENT: piece.event, CREATED: piece.created, KNOWN: piece.event}[name]
            if name == KNOWN and f"\0{ARRIVED}" in batch.schema.names:
                own = ARRIVED
            elif name == KNOWN and piece.created:
                own = piece.created
            out.append(_time(batch, own) if own else pa.nulls(batch.num_rows, TIMESTAMP))
        else:
            at = batch.schema.names
            if name not in at:
                raise HeadwaterError(f"the transformation makes no column {name!r}; it makes {at}")
            out.append(batch.column(name))
    return pa.RecordBatch.from_arrays(out, names=list(columns))


def _sequence(batch: pa.RecordBatch, piece: Piece, base: int) -> pa.Array:
    """What orders rows of one time: the log's partition and offset, as online; else their order."""
    if f"\0{OFFSET}" in batch.schema.names:
        partition = batch.column(f"\0{PARTITION}").cast(pa.int64()).fill_null(0).to_numpy()
        return pa.array((partition << 48) | batch.column(f"\0{OFFSET}").fill_null(0).to_numpy())
    first = base + (_HISTORY if piece.kind == "history" else 0)
    return pa.array(np.arange(first, first + batch.num_rows))


def _source(batch: pa.RecordBatch) -> pa.Array:
    """The topic and partition of each row as one number; a history's rows have one of their own."""
    if f"\0{TOPIC}" not in batch.schema.names:
        return pa.repeat(pa.scalar(source_id("", -1), pa.int64()), batch.num_rows)
    topics = batch.column(f"\0{TOPIC}").fill_null("").dictionary_encode()
    numbers = np.array([source_id(t, 0) for t in topics.dictionary.to_pylist()], np.int64)
    partition = batch.column(f"\0{PARTITION}").cast(pa.int64()).fill_null(-1).to_numpy()
    return pa.array(numbers[topics.indices.to_numpy()] | partition & 0xFFFF)


def column_types(view: ViewPlan, pieces: Sequence[Piece]) -> dict[str, pa.DataType]:
    """The types of the columns: the sources', but what is declared a float is one, as served."""
    types = _common_types(pieces)
    for field in view.features:
        held = types.get(field.name, pa.null())
        exact = pa.types.is_decimal(held) or pa.types.is_integer(held)
        if exact and field.type in {"FLOAT", "DOUBLE"}:
            types[field.name] = pa.float64()
    return types


def _common_types(pieces: Sequence[Piece]) -> dict[str, pa.DataType]:
    """The type of each column over all pieces: a history may be narrower than its log."""
    found: dict[str, pa.DataType] = {}
    for piece in pieces:
        kinds = {n: piece.data.schema.field(s).type for n, s in piece.source_of.items()}
        schema = normalised(pa.schema(list(kinds.items())).empty_table()).schema
        for name, kind in zip(schema.names, schema.types, strict=True):
            held = pa.schema([(name, found.get(name, kind))])
            # Columns that nothing can hold alike are only an error where they are asked for.
            with contextlib.suppress(pa.ArrowInvalid, pa.ArrowTypeError):
                both = pa.unify_schemas([held, pa.schema([(name, kind)])],
                                        promote_options="permissive")  # fmt: skip
                found[name] = both.field(0).type
    return found


def _as(column: pa.Array, kind: pa.DataType | None) -> pa.Array:
    return column if kind is None or column.type == kind else column.cast(kind, safe=False)


def _one(batches: Iterator[pa.RecordBatch], piece: Piece, names: list[str]) -> pa.RecordBatch:
    schema = pa.schema([piece.data.schema.field(n) for n in names])
    whole = pa.Table.from_batches(list(batches), schema).combine_chunks().to_batches()
    return whole[0] if whole else pa.RecordBatch.from_pylist([], schema)


def _normal(columns: Mapping[str, pa.Array]) -> list[pa.Array]:
    if not any(pa.types.is_temporal(c.type) and c.type != TIMESTAMP for c in columns.values()):
        return list(columns.values())
    table = normalised(pa.table(list(columns.values()), names=list(columns)))
    return [c.combine_chunks() for c in table.columns]


def _time(batch: pa.RecordBatch, source: str) -> pa.Array:
    """A time column as UTC microseconds; text in it is ISO 8601."""
    column = batch.column(f"\0{source}")
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return parsed_times(column)
    return column.cast(TIMESTAMP)
