"""What one batch of a partition's events becomes in Redis: newest rows, and folded windows."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from headwater.arrow import arrow_type, numpy_column
from headwater.catalog import ViewPlan, column_kind
from headwater.codec import RowCodec, key_prefix, redis_keys, section_source, split_sections
from headwater.online.writer import OnlineWriter
from headwater.transform import transform_events
from headwater.windows import Column, EventBatch, Int64, WindowProgram, source_id


class Batch:
    """A partition's accepted events, in offset order. Arrays [n]; times in microseconds."""

    def __init__(
        self, topic: str, partition: int, events: pa.Table, ts: Int64, created: Int64 | None,
        offsets: Int64, watermark: Int64,
    ) -> None:  # fmt: skip
        self.topic, self.partition, self.events = topic, partition, events
        self.ts, self.created, self.offsets, self.watermark = ts, created, offsets, watermark

    def take(self, rows: Int64, events: pa.Table | None = None) -> Batch:
        created = None if self.created is None else self.created[rows]
        return Batch(
            self.topic, self.partition, self.events.take(rows) if events is None else events,
            self.ts[rows], created, self.offsets[rows], self.watermark[rows],
        )  # fmt: skip


class Sink(Protocol):
    """Applies batches to one view. Applying one again changes nothing."""

    view: ViewPlan

    def apply(self, batch: Batch, now_us: int) -> int:
        """Write the batch's effect to Redis; returns the events that the view used."""
        ...

    def forget(self) -> None:
        """Drop what is cached: partitions moved, or another worker was ahead."""
        ...


def make_sink(project: str, view: ViewPlan, writer: OnlineWriter, cache_keys: int) -> Sink:
    if view.kind == "window":
        return WindowSink(project, view, writer, cache_keys)
    return RowSink(project, view, writer)


def _prepare(view: ViewPlan, batch: Batch) -> tuple[Batch, list[list[Any]]]:
    """The events after the view's udf, without those whose key is null, and their key columns."""
    if view.udf is not None:
        events, rows = transform_events(view.udf, batch.events)
        batch = batch.take(rows, events)
    known = np.ones(len(batch.ts), np.bool_)
    for key in view.join_keys:
        known &= np.asarray(batch.events[key.name].combine_chunks().is_valid())
    if not known.all():
        batch = batch.take(np.flatnonzero(known))
    return batch, [batch.events[key.name].to_pylist() for key in view.join_keys]


class RowSink:
    """The latest row of each entity: greatest (event time, created, partition, offset)."""

    def __init__(self, project: str, view: ViewPlan, writer: OnlineWriter) -> None:
        self.view, self._writer = view, writer
        self._codec, self._prefix = RowCodec.of(view), key_prefix(project, view)

    def apply(self, batch: Batch, now_us: int) -> int:
        batch, columns = _prepare(self.view, batch)
        n = len(batch.ts)
        if not n:
            return 0
        keys = redis_keys(self._prefix, columns, n)
        created = batch.created if batch.created is not None else np.zeros(n, np.int64)
        order = np.lexsort((batch.offsets, created, batch.ts)).tolist()
        newest = {keys[i]: i for i in order}
        rows = np.fromiter(newest.values(), np.int64, len(newest))
        cells = [self._cells(batch, field.name, field.type, rows) for field in self.view.features]
        made = None if batch.created is None else batch.created[rows].tolist()
        packed = [
            self._codec.pack(ts, made[at] if made else None, batch.partition, offset, values)
            for at, (ts, offset, *values) in enumerate(
                zip(batch.ts[rows].tolist(), batch.offsets[rows].tolist(), *cells, strict=True)
            )
        ]
        self._writer.write_rows(list(newest), packed)
        return n

    def _cells(self, batch: Batch, name: str, value_type: str, rows: Int64) -> list[Any]:
        if name not in batch.events.column_names:
            return [None] * len(rows)
        column = batch.events[name].take(rows).cast(arrow_type(value_type))
        if value_type == "UNIX_TIMESTAMP":
            column = column.cast(pa.int64())
        values: list[Any] = column.to_pylist()
        return values

    def forget(self) -> None:
        """Rows are compared in Redis; nothing is cached."""


class WindowSink:
    """Windows: each key's section for this partition, folded and written under its offset."""

    def __init__(self, project: str, view: ViewPlan, writer: OnlineWriter, cache_keys: int) -> None:
        self.view, self._writer, self._limit = view, writer, cache_keys
        self._program, self._prefix = WindowProgram.of(view), key_prefix(project, view)
        self._kinds = {a.column: column_kind(a.column_type) for a in view.aggregations}
        self._cache: dict[tuple[bytes, int], bytes | None] = {}

    def apply(self, batch: Batch, now_us: int) -> int:
        batch, columns = _prepare(self.view, batch)
        n = len(batch.ts)
        if not n:
            return 0
        source = source_id(batch.topic, batch.partition)
        index: dict[bytes, int] = {}
        key = np.fromiter(
            (index.setdefault(k, len(index)) for k in redis_keys(self._prefix, columns, n)),
            np.int64,
            n,
        )
        keys = list(index)
        events = EventBatch(
            key, batch.ts, batch.offsets, np.full(n, source, np.int64), batch.watermark,
            {name: self._column(batch, name) for name in self._program.columns},
        )  # fmt: skip
        sections = self._program.fold(self._states(keys, source), events, now_us)
        refused = self._writer.write_sections(keys, sections)
        self._cache.update(((k, source), s) for k, s in zip(keys, sections, strict=True))
        for at in refused:
            del self._cache[keys[at], source]
        return n - int(self._program.is_late(batch.ts, batch.watermark).sum())

    def _column(self, batch: Batch, name: str) -> Column:
        return Column(*numpy_column(batch.events[name], self._kinds[name]))

    def _states(self, keys: list[bytes], source: int) -> list[bytes | None]:
        missing = [k for k in keys if (k, source) not in self._cache]
        if len(self._cache) + len(missing) > self._limit:
            self._cache.clear()
            missing = keys
        for k, value in zip(missing, self._writer.read(missing), strict=True):
            held = [s for s in split_sections(value) if section_source(s) == source]
            self._cache[k, source] = held[0] if held else None
        return [self._cache[k, source] for k in keys]

    def forget(self) -> None:
        self._cache.clear()
