"""What a partition's events become in Redis: newest rows, and folded windows.

`apply` only changes memory; `take` gives what changed since as Redis commands, which another
thread may run while the next events are applied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec
import numpy as np
import pyarrow as pa
from numba import njit

from headwater.arrow import arrow_type, key_type, numpy_column
from headwater.catalog import AggregationPlan, FieldPlan, ViewPlan, column_kind
from headwater.codec import key_prefix, section_source, split_sections
from headwater.errors import HeadwaterError
from headwater.interning import Int64, KeyTable, Texts, entity_texts, texts
from headwater.online.commands import Commands
from headwater.online.rows import RowPacker
from headwater.online.writer import OnlineWriter
from headwater.states import WindowStates
from headwater.transform import columns_made, failing, transform_events
from headwater.windows import Column, EventBatch, WindowProgram, source_id

Place = tuple[str, int]


class Batch:
    """A partition's accepted events, in offset order. Arrays [n]; times in microseconds."""

    def __init__(
        self, topic: str, partition: int, events: pa.Table, ts: Int64, created: Int64 | None,
        offsets: Int64, watermark: Int64,
    ) -> None:  # fmt: skip
        self.topic, self.partition, self.events = topic, partition, events
        self.ts, self.created, self.offsets, self.watermark = ts, created, offsets, watermark
        self._made: dict[str, tuple[pa.Table, Int64]] = {}

    @property
    def place(self) -> Place:
        return self.topic, self.partition

    def transformed(self, view: ViewPlan) -> tuple[pa.Table, Int64]:
        """The view's udf over the events, run once: its columns, and the event each row is of.

        Raises HeadwaterError where the function fails.
        """
        assert view.udf is not None  # noqa: S101 (narrows the type for mypy)
        if view.name not in self._made:
            makes = columns_made(view)
            self._made[view.name] = transform_events(view.udf, self.events, makes=makes)
        return self._made[view.name]

    def without_failing(self, view: ViewPlan) -> tuple[Batch, list[tuple[int, str]]]:
        """The events on which the view's udf does not fail; (offset, reason) of the others."""
        if view.udf is None or not len(self.ts):
            return self, []
        try:
            self.transformed(view)
        except HeadwaterError:
            bad = failing(view.udf, self.events, makes=columns_made(view))
            kept = np.ones(len(self.ts), np.bool_)
            kept[[at for at, _ in bad]] = False
            refused = [(int(self.offsets[at]), f"view {view.name!r}: {why}") for at, why in bad]
            return self.take(np.flatnonzero(kept)), refused
        return self, []

    def take(self, rows: Int64, events: pa.Table | None = None) -> Batch:
        """Some of the events; `events` where a transformation made other columns of them."""
        created = None if self.created is None else self.created[rows]
        return Batch(
            self.topic, self.partition, self.events.take(rows) if events is None else events,
            self.ts[rows], created, self.offsets[rows], self.watermark[rows],
        )  # fmt: skip


class Sink(Protocol):
    """Applies batches to one view. Applying one again changes nothing in Redis."""

    view: ViewPlan
    prefix: bytes

    def apply(self, batch: Batch, now_us: int) -> int:
        """Fold a batch in memory; returns the events that the view used. May read from Redis."""
        ...

    @property
    def dirty(self) -> int:
        """Keys that changed since `take`."""
        ...

    def take(self) -> list[Commands]:
        """What writes the keys that changed; from now on they count as written."""
        ...

    def forget(self, place: Place | None = None) -> None:
        """Drop what is in memory of one topic's partition, or of all."""
        ...

    def held(self, place: Place | None = None) -> tuple[int, int]:
        """Keys and bytes in memory, of one partition or of all."""
        ...

    def trim(self, limit: int) -> None:
        """Keep memory near `limit` bytes; only while nothing is dirty or being written."""
        ...


def write(sinks: Sequence[Sink], writer: OnlineWriter) -> None:
    """Write what changed in some sinks, now."""
    for sink in sinks:
        for commands in sink.take():
            writer.run(commands)


def make_sink(project: str, view: ViewPlan, writer: OnlineWriter) -> Sink:
    if view.kind == "window":
        return WindowSink(project, view, writer)
    return RowSink(project, view, writer)


def _prepare(view: ViewPlan, batch: Batch) -> tuple[Batch, Texts]:
    """The events after the view's udf, without those whose key is null, and their key texts."""
    if view.udf is not None:
        events, rows = batch.transformed(view)
        batch = batch.take(rows, events)
    known = np.ones(len(batch.ts), np.bool_)
    for key in view.join_keys:
        column = batch.events[key.name]
        if column.null_count:
            known &= np.asarray(column.combine_chunks().is_valid())
    if not known.all():
        batch = batch.take(np.flatnonzero(known))
    columns = [_key_column(batch.events[key.name], key.type) for key in view.join_keys]
    return batch, entity_texts(columns, len(batch.ts))


def _key_column(column: pa.ChunkedArray, value_type: str) -> pa.ChunkedArray:
    """A key as its entity's type has it: a udf may have made floats of whole numbers."""
    if value_type in {"INT32", "INT64"} and pa.types.is_floating(column.type):
        return column.cast(pa.int64(), safe=False)
    return column


class RowSink:
    """The latest row of each entity: greatest (event time, created, partition, offset)."""

    def __init__(self, project: str, view: ViewPlan, writer: OnlineWriter) -> None:
        self.view, self._writer = view, writer
        self._packer, self.prefix = RowPacker(view), key_prefix(project, view)
        self._names = [field.name for field in view.features]
        self._has_created = False
        self.forget()

    def forget(self, place: Place | None = None) -> None:
        """Rows are compared in Redis: what waits may be dropped, since it is read again."""
        self._keys = KeyTable()
        self._tables: list[pa.Table] = []
        self._rows = 0
        # Of each key its newest row: event time, created, partition, offset, row among the tables.
        self._newest = np.empty((0, 5), np.int64)

    def held(self, place: Place | None = None) -> tuple[int, int]:
        """None, once they are written."""
        return 0, 0

    def trim(self, limit: int) -> None:
        """Nothing is kept once it is written."""

    def apply(self, batch: Batch, now_us: int) -> int:
        batch, keys = _prepare(self.view, batch)
        n = len(batch.ts)
        if not n:
            return 0
        before = self._keys.size
        numbers = self._keys.intern(keys)
        if self._keys.size > len(self._newest):
            room = max(self._keys.size, 2 * len(self._newest))
            newest = np.full((room, 5), np.iinfo(np.int64).min)
            newest[:before] = self._newest[:before]
            self._newest = newest
        created = batch.created if batch.created is not None else np.zeros(n, np.int64)
        _take_newest(
            self._newest, numbers, batch.ts, created, batch.partition, batch.offsets, self._rows
        )
        names = [name for name in self._names if name in batch.events.column_names]
        self._tables.append(batch.events.select(names))
        self._has_created = batch.created is not None
        self._rows += n
        return n

    @property
    def dirty(self) -> int:
        return self._keys.size

    def take(self) -> list[Commands]:
        n = self._keys.size
        if not n:
            return []
        newest, keys = self._newest[:n], self._keys.texts
        # What a udf makes of some events may be null, or whole, where it is not of others.
        table = pa.concat_tables(self._tables, promote_options="permissive")
        table = table.take(pa.array(newest[:, 4]))
        columns = [table[n] if n in table.column_names else None for n in self._names]
        made = newest[:, 1] if self._has_created else None
        rows = self._packer.pack(newest[:, 0], made, columns, newest[:, 2], newest[:, 3])
        self.forget()
        return [self._writer.rows(self.prefix, keys, rows)]


@njit(cache=True, nogil=True)
def _take_newest(newest, number, ts, created, partition, offset, first):
    for i in range(number.size):
        held = newest[number[i]]
        newer = ts[i] > held[0]
        if ts[i] == held[0]:
            newer = created[i] > held[1]
            if created[i] == held[1]:
                newer = partition > held[2] or (partition == held[2] and offset[i] >= held[3])
        if newer:
            held[0], held[1], held[2], held[3] = ts[i], created[i], partition, offset[i]
            held[4] = first + i


class WindowSink:
    """Windows: each key's section for this partition, folded and written under its offset."""

    def __init__(self, project: str, view: ViewPlan, writer: OnlineWriter) -> None:
        self.view, self._writer = view, writer
        self._program, self.prefix = WindowProgram.of(view), key_prefix(project, view)
        self._kinds = {a.column: column_kind(a.column_type) for a in view.aggregations}
        self._states: dict[Place, WindowStates] = {}

    def forget(self, place: Place | None = None) -> None:
        if place is None:
            self._states.clear()
        else:
            self._states.pop(place, None)

    def held(self, place: Place | None = None) -> tuple[int, int]:
        found = [s for at, s in self._states.items() if place is None or at == place]
        return sum(map(len, found)), sum(states.nbytes for states in found)

    def trim(self, limit: int) -> None:
        if self.held()[1] > limit:
            for states in self._states.values():
                states.shrink()

    def apply(self, batch: Batch, now_us: int) -> int:
        batch, keys = _prepare(self.view, batch)
        n = len(batch.ts)
        if not n:
            return 0
        source = source_id(batch.topic, batch.partition)
        states = self._states.get(batch.place)
        if states is None:
            states = self._states[batch.place] = WindowStates(self._program, source)
        key, fresh = states.intern(keys)
        if len(fresh):
            states.load(fresh, self._stored(states.texts(fresh), source))
        columns = {name: self._column(batch, name) for name in self._program.columns}
        events = EventBatch(
            key, batch.ts, batch.offsets, np.full(n, source, np.int64), batch.watermark, columns
        )
        states.fold(key, events, now_us)
        return n - int(self._program.is_late(batch.ts, batch.watermark).sum())

    def _column(self, batch: Batch, name: str) -> Column:
        return Column(*numpy_column(batch.events[name], self._kinds[name]))

    def _stored(self, keys: Texts, source: int) -> list[bytes | None]:
        """The section of each key that Redis holds for this partition."""
        return [
            next((s for s in split_sections(value) if section_source(s) == source), None)
            if value is not None
            else None
            for value in self._writer.read_texts(self.prefix, keys)
        ]

    @property
    def dirty(self) -> int:
        return sum(states.dirty for states in self._states.values())

    def take(self) -> list[Commands]:
        return [self._written(states) for states in self._states.values() if states.dirty]

    def _written(self, states: WindowStates) -> Commands:
        which = states.take_dirty()
        return self._writer.sections(self.prefix, states.texts(which), states.values(which))


def rehearse(project: str, view: ViewPlan, writer: OnlineWriter) -> None:
    """One event of nulls through a sink that nobody sees; nothing is written.

    It loads (the first time ever: compiles) what the first real one would wait for.
    Raises StoreUnavailableError.
    """
    fields = {field.name: arrow_type(field.type) for field in view.features}
    fields |= {a.column: arrow_type(a.column_type) for a in view.aggregations}
    columns = {name: pa.nulls(1, kind) for name, kind in fields.items()}
    columns |= {
        key.name: pa.array([""]).cast(kind) if kind in {pa.string(), pa.binary()}
        else pa.array([0]).cast(kind)
        for key in view.join_keys
        for kind in [key_type(key.type)]
    }  # fmt: skip
    # What the view's own function makes of an event that never was is not asked.
    sink = make_sink(project, msgspec.structs.replace(view, udf=None), writer)
    zero = np.zeros(1, np.int64)
    sink.apply(Batch("", 0, pa.table(columns), zero, zero, zero, zero), 0)
    sink.take()


def warm() -> None:
    """Load (the first time ever: compile) the loops that are needed only now and then.

    To compile them takes seconds, for which everything would stand still: the first event that is
    ahead of the clock, the first arena that has gaps, the first state that is read again.
    """
    count = AggregationPlan("n", "", "count", None, 1)
    view = ViewPlan("", "window", (), (FieldPlan("n", "INT64"),), aggregations=(count,))
    states = WindowStates(WindowProgram.of(view), 0)
    keys, _ = states.intern(texts([b"a", b"b"]))
    marks = np.arange(1, 3)
    states.fold(keys, EventBatch(keys, marks, marks, np.zeros(2, np.int64), marks), 1)
    states.tidy(64)
    one = EventBatch(keys[:1], marks[:1], marks[:1] + 2, np.zeros(1, np.int64), marks[1:])
    states.fold(keys[:1], one, 2)
    states.values(states.take_dirty())
    states.shrink()
