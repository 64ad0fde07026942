"""A view's features at each label's time: the newest row then known, or windows by definition."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from headwater import label_kernels as kernels
from headwater.arrow import arrow_type
from headwater.catalog import Catalog, JoinKeyPlan, ViewPlan
from headwater.errors import HeadwaterError
from headwater.gather import column_threads
from headwater.label_windows import EventPart, KeyedEvents, windows_at
from headwater.offline.keys import LabelKeys
from headwater.offline.leaks import ageless_warning, join_warnings, newest_warning
from headwater.offline.scan import KNOWN, Scan, open_view
from headwater.offline.sources import CREATED, EVENT, SEQUENCE
from headwater.offline.spec import AsOf
from headwater.windows import Bool, Int64

_NONE = np.zeros(0, np.int64)
#: A windowed event's share of memory while it is read, sorted and folded, in columns of 8 bytes.
_COPIES = 5


@dataclass(frozen=True)
class Past:
    """How the past is read.

    as_of: "event" joins every row with event time at or before the label's; "arrival" only those
    that had arrived by then too. versions: path -> version of a Delta table to read again.
    memory: bytes that may be held at once. progress: is told of rows as they are read, and may
    raise to stop. warn: is told of what looks like a leak, before features are read.
    """

    as_of: AsOf = "event"
    versions: Mapping[str, int] = field(default_factory=dict)
    memory: int = 0
    progress: Callable[[int], None] | None = None
    warn: Callable[[str], None] | None = None

    @property
    def budget(self) -> int:
        """Bytes for one view's events: half of the limit, which is half of the machine's memory
        where none is set."""
        return (self.memory or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2) // 2


@dataclass(frozen=True)
class _Ordered:
    """Labels by key and time; `order` says which label each is. Null keys are left out."""

    keys: LabelKeys
    order: Int64
    at: Int64
    t: Int64


class Labels:
    """The labels' keys and times, sorted once for each set of key columns that views need.

    table: [labels] with the key columns; times: [labels], microseconds.
    """

    def __init__(self, table: pa.Table, times: Int64) -> None:
        self.table, self.times = table, times
        self._by_time: Int64 | None = None
        self._ordered: dict[tuple[tuple[str, str], ...], _Ordered] = {}

    def __len__(self) -> int:
        return len(self.times)

    def ordered(self, columns: Sequence[tuple[str, JoinKeyPlan]]) -> _Ordered:
        """Raises HeadwaterError for keys that cannot be the type that the view wants."""
        name = tuple((column, key.type) for column, key in columns)
        if name not in self._ordered:
            if self._by_time is None:
                self._by_time = np.argsort(self.times)  # labels of one time are all one
            keys = LabelKeys([self._key(c, k) for c, k in columns], len(self))
            order, at = kernels.group(kernels.take(keys.codes, self._by_time), keys.count)
            order = kernels.take(self._by_time, order)
            self._ordered[name] = _Ordered(keys, order, at, kernels.take(self.times, order))
        return self._ordered[name]

    def _key(self, column: str, key: JoinKeyPlan) -> pa.ChunkedArray:
        try:
            return self.table[column].cast(arrow_type(key.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise HeadwaterError(
                f"the labels' {column!r} is {self.table[column].type}, and the key {key.name!r} "
                f"is {key.type}: {error}"
            ) from error


def features_at(
    catalog: Catalog,
    view: ViewPlan,
    labels: Labels,
    columns: Mapping[str, str],
    names: Sequence[str],
    past: Past,
) -> Iterator[tuple[str, pa.Array]]:
    """The named features of a view for each label, in the labels' order; null where none.

    They come one by one, so that those that are written need not be held. columns: join key ->
    its column in the labels. Raises HeadwaterError where the view's past cannot be read.
    """
    scan = open_view(catalog, view, past.versions)
    yield from features_of(scan, labels, columns, names, past)


def features_of(
    scan: Scan, labels: Labels, columns: Mapping[str, str], names: Sequence[str], past: Past
) -> Iterator[tuple[str, pa.Array]]:
    """As `features_at`, from rows that are open already: a bucket of them, on a cluster."""
    view = scan.view
    ordered = labels.ordered([(columns[k.name], k) for k in view.join_keys])
    scan.progress = past.progress
    if past.warn:
        for warning in newest_warning(view.name, scan.newest_us(), labels.times):
            past.warn(warning)
    if len(ordered.t):
        reach = reach_us(view)
        scan.limit(None if reach is None else int(ordered.t.min()) - reach, int(ordered.t.max()))
    if view.kind == "window":
        yield from zip(names, _windows(scan, ordered, len(labels), names, past), strict=True)
        return
    rows = newest_rows(scan, ordered, len(labels), past)
    # Columns that are read together: what is gathered of them must fit.
    group = max(1, past.budget // (len(labels) * 32 + 1))
    for at in range(0, len(names), group):
        some = names[at : at + group]
        yield from zip(some, scan.take(some, rows), strict=True)


def reach_us(view: ViewPlan) -> int | None:
    """How far before a label an event can matter; None for the whole past."""
    if view.kind == "row":
        return view.ttl_us or None
    if not all(a.window_us for a in view.aggregations):
        return None
    return max((a.window_us or 0) + a.hop_us for a in view.aggregations)


def newest_rows(scan: Scan, ordered: _Ordered, labels: int, past: Past) -> Int64:
    """For each label the scan's row of its key that was the newest by then; -1 for none.

    Rows come in one pass and any order; what is held is a few numbers a label.
    """
    keys = [k.name for k in scan.view.join_keys]
    best = np.full((len(ordered.t), 4), -1, np.int64)
    cursor = ordered.at[:-1].copy()
    own = [EVENT]
    own += [CREATED] if scan.has_created else []
    own += [SEQUENCE] if scan.is_logged() else []
    own += [KNOWN] if past.as_of == "arrival" else []
    base = 0
    for batch in scan.batches([*keys, *own]):
        codes = ordered.keys.of([batch.column(i) for i in range(len(keys))], batch.num_rows)
        at = dict(zip(own, batch.columns[len(keys) :], strict=True))
        ts, known = _times(at[EVENT])
        if known is not None:
            codes = np.where(known, codes, -1)
        visible = np.maximum(ts, _times(at[KNOWN], ts)[0]) if KNOWN in at else ts
        created = _times(at[CREATED], None)[0] if CREATED in at else _NONE
        sequence = at[SEQUENCE].to_numpy() if SEQUENCE in at else _NONE
        kernels.newest(
            codes, ts, visible, created, sequence, base, ordered.at, ordered.t, best, cursor
        )
        base += batch.num_rows
    sorted_rows = np.full(len(ordered.t), -1, np.int64)
    kernels.settle(ordered.at, ordered.t, scan.view.ttl_us, best, sorted_rows)
    if past.warn:
        for warning in join_warnings(scan.view, best, sorted_rows, ordered.t):
            past.warn(warning)
    rows = np.full(labels, -1, np.int64)
    rows[ordered.order] = np.maximum(sorted_rows, -1)
    return rows


def newest_of_each(
    scan: Scan, keys: Sequence[JoinKeyPlan], low_us: int | None = None, high_us: int | None = None
) -> Int64:
    """The scan's row of each key that is the newest within the times, ascending.

    A key without a type stays as it is. Rows with a null key or time are none. Holds keys and
    times of all rows, and no features.
    """
    own = [EVENT] + [CREATED] * scan.has_created + [SEQUENCE] * scan.is_logged()
    table = scan.table([*(k.name for k in keys), *own])
    columns = [table[k.name] for k in keys]
    typed = [c.cast(arrow_type(k.type)) if k.type else c
             for c, k in zip(columns, keys, strict=True)]  # fmt: skip
    known = LabelKeys(typed, table.num_rows)
    ts, valid = _times(table[EVENT].combine_chunks())
    codes = known.codes if valid is None else np.where(valid, known.codes, -1)
    for us, outside in ((low_us, np.less), (high_us, np.greater)):
        if us is not None:
            codes = np.where(outside(ts, us), -1, codes)
    created = _times(table[CREATED].combine_chunks())[0] if CREATED in own else _NONE
    sequence = table[SEQUENCE].combine_chunks().to_numpy() if SEQUENCE in own else _NONE
    best = np.full(known.count, -1, np.int64)
    kernels.newest_of_each(codes, ts, created, sequence, best)
    return np.sort(best[best >= 0])


def _times(column: pa.Array, default: Int64 | None = None) -> tuple[Int64, Bool | None]:
    """Microseconds, and which are known (None: all); unknown ones are the default's, or oldest."""
    numbers = column.cast(pa.int64())
    if not numbers.null_count:
        return numbers.to_numpy(), None
    known = np.asarray(numbers.is_valid())
    values = numbers.fill_null(kernels.I64_MIN).to_numpy()
    return (values if default is None else np.where(known, values, default)), known


def _windows(
    scan: Scan, ordered: _Ordered, labels: int, names: Sequence[str], past: Past
) -> list[pa.Array]:
    """Windows key by key; keys go in as many parts as the memory asks for, one scan for each."""
    view = scan.view
    made = {a.name: a for a in view.aggregations}
    wanted = [made[name] for name in names]
    used = sorted({a.column for a in wanted if a.column not in {"", "*"}})
    parts = _parts(scan, len(used), past)
    found, ageless = [], 0
    for part in range(parts):
        events = _events(scan, ordered, used, past, part, parts)
        at, t, order = _part_labels(ordered, part, parts)
        if past.warn:
            high = np.empty_like(t)
            kernels.upper(events.at, events.ts, at, t, high)
            some = high > np.repeat(events.at[:-1], np.diff(at))
            ageless += int((events.ts[high[some] - 1] == t[some]).sum())
        place = None
        if len(order) == labels:  # all labels at once: each value goes where it belongs
            place = np.empty(labels, np.int64)
            kernels.put(np.arange(labels), order, place)
        found.append((order, windows_at(wanted, events, at, t, place)))
    if past.warn:
        for warning in ageless_warning(view.name, "an event", ageless, len(ordered.t)):
            past.warn(warning)
    if len(found[0][0]) == labels:
        return found[0][1]
    place = np.full(labels, -1, np.int64)
    place[np.concatenate([order for order, _ in found])] = np.arange(len(ordered.t))
    where = pa.array(place, mask=place < 0)

    def in_their_order(i: int) -> pa.Array:
        taken = pa.chunked_array([arrays[i] for _, arrays in found]).combine_chunks().take(where)
        # A label without a key is an entity without events.
        zero = wanted[i].function in {"count", "count_distinct"} and taken.null_count
        return taken.fill_null(0) if zero else taken

    return list(column_threads().map(in_their_order, range(len(wanted))))


def _parts(scan: Scan, columns: int, past: Past) -> int:
    return max(1, -(-scan.rows() * 8 * (4 + columns) * _COPIES // past.budget))


def _part_labels(ordered: _Ordered, part: int, parts: int) -> tuple[Int64, Int64, Int64]:
    """A part's labels, the same keys as codes: every parts-th key, from `part` on."""
    if parts == 1:
        return ordered.at, ordered.t, ordered.order
    sizes = np.diff(ordered.at)
    inside = np.repeat(np.arange(len(sizes)) % parts == part, sizes)
    at = np.zeros(len(sizes[part::parts]) + 1, np.int64)
    np.cumsum(sizes[part::parts], out=at[1:])
    return at, ordered.t[inside], ordered.order[inside]


def _events(
    scan: Scan, ordered: _Ordered, used: Sequence[str], past: Past, part: int, parts: int
) -> KeyedEvents:
    """The events of one part's keys, by key and time."""
    keys = [k.name for k in scan.view.join_keys]
    own = [EVENT] + [SEQUENCE] * scan.is_logged() + [KNOWN] * (past.as_of == "arrival")
    read: list[EventPart] = []
    reach = reach_us(scan.view)
    high = int(ordered.t.max(initial=kernels.I64_MIN))
    low = kernels.I64_MIN if reach is None or not len(ordered.t) else int(ordered.t.min()) - reach
    for batch in scan.batches([*keys, *own, *used]):
        key = ordered.keys.of([batch.column(i) for i in range(len(keys))], batch.num_rows)
        ts, known = _times(batch.column(len(keys)))
        if known is not None:
            key = np.where(known, key, -1)
        code = np.empty(batch.num_rows, np.int32)
        kept = kernels.admit(key, ts, low, high, part, parts, code)
        if kept < batch.num_rows // 2:  # what is left out is not worth holding
            rows = np.flatnonzero(code >= 0)
            batch, code = batch.take(pa.array(rows)), code[rows]
        times = [_times(batch.column(len(keys) + i))[0] for i in range(len(own))]
        columns = dict(zip(used, batch.columns[len(keys) + len(own) :], strict=True))
        known_of = dict(zip(own, times, strict=True))
        read.append(EventPart(code, known_of[EVENT], columns,
                         known_of.get(SEQUENCE), known_of.get(KNOWN)))  # fmt: skip
    count = (ordered.keys.count - part + parts - 1) // parts
    kinds = {a.column: arrow_type(a.column_type) for a in scan.view.aggregations}
    kinds |= {name: column.type for p in read[:1] for name, column in p.columns.items()}
    return KeyedEvents.sort(read, count, {n: kinds[n] for n in used})
