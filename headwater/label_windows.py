"""Windowed features at label times: the definition of `headwater.windows` over whole columns. Pure.

The events and labels of each key are sorted by time; a window is then a range of events. Counts
are differences of ranks, sums and extremes come from a tree of partials (nothing is subtracted),
first and last from positions, sketches from counts that slide along.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headwater import label_kernels as kernels
from headwater import label_sketch_kernels as sliding
from headwater import sketches
from headwater.arrow import arrow_type
from headwater.catalog import AggregationPlan, column_kind
from headwater.gather import Gather
from headwater.windows import Bool, Int64

_NO_TIMES = np.zeros(0, np.int64)
#: Events and labels that one thread works on at a time: their few columns stay in its cache.
_RANGE = 1 << 18


class EventPart(NamedTuple):
    """Some events, in any order: arrays [events]. `code` is each one's key, from 0.

    sequence: what orders events of one time; None where it is the order in which they come.
    """

    code: Int64
    ts: Int64
    columns: Mapping[str, pa.Array]
    sequence: Int64 | None = None
    arrived: Int64 | None = None


@dataclass
class KeyedEvents:
    """Events grouped by key, in order of (time, sequence) within each; arrays [events].

    at: where each key starts [keys + 1]. arrived: when each was applied, where labels see an
    event only from then on. columns: what is aggregated, as Arrow arrays in the same order.
    """

    at: Int64
    ts: Int64
    columns: dict[str, pa.Array]
    arrived: Int64 | None = None
    _numbers: dict[str, tuple[Any, Bool]] = field(default_factory=dict)
    _known: dict[str, Bool] = field(default_factory=dict)

    @classmethod
    def sort(
        cls, parts: Sequence[EventPart], keys: int, kinds: Mapping[str, pa.DataType]
    ) -> KeyedEvents:
        """Group and sort. The parts' codes are overwritten. kinds: the columns and their types."""
        at = np.zeros(keys + 1, np.int64)
        for part in parts:
            kernels.count_codes(part.code, at)
        np.cumsum(at, out=at)
        cursor, n = at[:-1].copy(), int(at[-1])
        for part in parts:
            kernels.place_codes(part.code, cursor)
        known = [part.columns for part in parts]
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            numbers = [
                threads.submit(_put, parts, [getattr(part, name) for part in parts], n)
                for name in ("ts", "sequence", "arrived")
            ]
            gathered = {
                name: threads.submit(_gather, parts, [columns[name] for columns in known], n, kind)
                for name, kind in kinds.items()
            }
            ts, sequence, arrived = [done.result() for done in numbers]
            columns = {name: done.result() for name, done in gathered.items()}
            found = cls(at, ts, columns, arrived if len(arrived) else None)
            return found._ordered(sequence, threads)

    def _ordered(self, sequence: Int64, threads: ThreadPoolExecutor) -> KeyedEvents:
        """Each key's events in order of (time, sequence), which most logs are in already."""
        cuts = _cuts(self.at)
        starts = [self.at[a : b + 1] for a, b in pairwise(cuts)]
        if all(threads.map(lambda at: kernels.in_order(at, self.ts, sequence), starts)):
            return self
        order = np.arange(len(self))
        list(threads.map(lambda at: kernels.sort_groups(order, at, self.ts, sequence), starts))
        rows = pa.array(order)
        taken = threads.map(lambda column: column.take(rows), self.columns.values())
        return KeyedEvents(
            self.at, self.ts[order], dict(zip(self.columns, taken, strict=True)),
            None if self.arrived is None else self.arrived[order],
        )  # fmt: skip

    def keys(self, first: int, end: int) -> KeyedEvents:
        """The events of some keys, which are counted from 0 then; nothing is copied."""
        a, b = int(self.at[first]), int(self.at[end])
        return KeyedEvents(
            self.at[first : end + 1] - a, self.ts[a:b],
            {n: c.slice(a, b - a) for n, c in self.columns.items()},
            None if self.arrived is None else self.arrived[a:b],
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.ts)

    def valid(self, column: str) -> Bool:
        """Which events have a value; not-a-number is none."""
        if column not in self._known:
            array = self.columns[column]
            if pa.types.is_floating(array.type):
                array = array.fill_null(np.nan) if array.null_count else array
                self._known[column] = ~np.isnan(array.to_numpy(zero_copy_only=False))
            else:
                self._known[column] = np.asarray(array.is_valid())
        return self._known[column]

    def numbers(self, column: str, kind: str) -> tuple[Any, Bool]:
        """A numeric column as int64 or float64, null as 0, and which are not null."""
        if column not in self._numbers:
            known = self.valid(column)
            array = self.columns[column].cast(pa.int64() if kind == "int" else pa.float64())
            values = array.fill_null(0).to_numpy(zero_copy_only=False)
            if not known.all():
                values = np.where(known, values, 0).astype(values.dtype)
            self._numbers[column] = values, known
        return self._numbers[column]


@dataclass(frozen=True)
class _Ranges:
    """One window's events for each label: all of `low:until`, the arrived of `until:high`."""

    low: Int64
    until: Int64
    high: Int64


def windows_at(
    aggregations: Sequence[AggregationPlan], events: KeyedEvents, labels_at: Int64, t: Int64
) -> list[pa.Array]:
    """Each aggregation at each label, in the labels' order: by key, then by time.

    labels_at: where each key's labels start [keys + 1]; t: label times [labels], microseconds.
    """
    cuts = _cuts(events.at + labels_at)

    def some(first: int, end: int) -> list[pa.Array]:
        a, b = labels_at[first], labels_at[end]
        at_labels = _AtLabels(
            events.keys(first, end), labels_at[first : end + 1] - a, t[a:b]
        )  # fmt: skip
        return [at_labels.feature(aggregation) for aggregation in aggregations]

    # The kernels release the interpreter's lock, and every key stands alone.
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        found = list(threads.map(some, cuts[:-1], cuts[1:]))
    return [pa.concat_arrays(arrays) for arrays in zip(*found, strict=True)]


def _cuts(at: Int64) -> list[int]:
    """Keys split into ranges of about `_RANGE` events (and labels), which start at `at`."""
    steps = np.arange(_RANGE, at[-1] - _RANGE // 2, _RANGE)
    inner = np.unique(np.searchsorted(at, steps)).tolist()
    return [0, *(cut for cut in inner if 0 < cut < len(at) - 1), len(at) - 1]


def _put(parts: Sequence[EventPart], values: Sequence[Int64 | None], n: int) -> Int64:
    """Numbers in their places; none where the parts have none."""
    out = np.empty(n if any(v is not None for v in values) else 0, np.int64)
    for part, some in zip(parts, values, strict=True):
        if some is not None:
            kernels.put(some, part.code, out)
    return out


def _gather(
    parts: Sequence[EventPart], values: Sequence[pa.Array], n: int, kind: pa.DataType
) -> pa.Array:
    gather = Gather(n, kind)
    for part, some in zip(parts, values, strict=True):
        gather.add(some, None, part.code)
    return gather.finish([part.code for part in parts])


class _AtLabels:
    def __init__(self, events: KeyedEvents, labels_at: Int64, t: Int64) -> None:
        self.events, self.labels_at, self.t = events, labels_at, t
        late = events.arrived
        self.arrived = _NO_TIMES if late is None else late
        self.visible = events.ts if late is None else np.maximum(events.ts, late)
        self.high = np.empty_like(t)
        kernels.upper(events.at, events.ts, labels_at, t, self.high)
        self._by_visible: Int64 | None = None
        self._ranges: dict[tuple[int, int], _Ranges] = {}
        self._counts: dict[tuple[str, int, int], Int64] = {}
        self._trees: dict[tuple[str, str], tuple[Any, Any, Any]] = {}

    def ranges(self, length: int, hop: int) -> _Ranges:
        if (length, hop) not in self._ranges:
            high, low = self.high, np.empty_like(self.t)
            kernels.lower(
                self.events.at, self.events.ts, self.labels_at, self.t, length, hop, high, low
            )
            until = high
            if self.events.arrived is not None:
                until = np.zeros_like(self.t)
                kernels.settled(
                    self.events.at, self.arrived, self.labels_at, self.t, low, high, until
                )
            self._ranges[length, hop] = _Ranges(low, until, high)
        return self._ranges[length, hop]

    def by_visible(self) -> Int64:
        """Events in the order in which labels see them, key by key."""
        if self._by_visible is None:
            order = np.arange(len(self.events))
            if self.events.arrived is not None:
                kernels.sort_groups(order, self.events.at, self.visible, order.copy())
            self._by_visible = order
        return self._by_visible

    def feature(self, a: AggregationPlan) -> pa.Array:
        kind = column_kind(a.column_type)
        window = (a.window_us or -1, a.hop_us)
        if a.function == "count":
            return _as_type(self.count(a.column, *window), None, a.output_type)
        if a.function in {"first", "last", "first_n", "last_n"}:
            return self._ends(a, window)
        if a.function == "count_distinct":
            return _as_type(self._distinct(a, window), None, a.output_type)
        if a.function == "quantile":
            return self._quantile(a, window)
        if a.function in {"std", "var"}:
            return self._moments(a, kind, window)
        if kind == "object":
            return self._extreme_text(a, window)
        values, known = self.events.numbers(a.column, kind)
        count = self.count(a.column, *window)
        function = "sum" if a.function == "mean" else a.function
        found = self._query(function, a.column, values, known, window)
        if a.function == "mean":
            found = found / np.maximum(count, 1)
        return _as_type(found, count > 0, a.output_type)

    def count(self, column: str, length: int, hop: int) -> Int64:
        """How many of each label's events have a value; for no column, how many there are."""
        key = (column, length, hop)
        if key not in self._counts:
            ranges = self.ranges(length, hop)
            known = None
            if column not in {"", "*"}:
                known = self.events.valid(column)
            if (known is None or known.all()) and ranges.until is ranges.high:
                self._counts[key] = ranges.high - ranges.low
            else:
                ones = np.ones(len(self.events), np.int64) if known is None else known
                ones = ones.astype(np.int64)
                self._counts[key] = self._query(
                    "sum", f"\0{column}", ones, np.ones(len(ones), np.bool_), (length, hop)
                )
        return self._counts[key]

    def _query(
        self, function: str, name: str, values: Any, known: Bool, window: tuple[int, int]
    ) -> Any:
        """The operator over each label's values, by the tree that goes by this name."""
        op = {"sum": kernels.SUM, "min": kernels.MIN, "max": kernels.MAX}[function]
        if (function, name) not in self._trees:
            floating = values.dtype == np.float64
            none: Any = 0.0 if floating else 0
            if function != "sum":
                big = np.inf if floating else kernels.I64_MAX
                small = -np.inf if floating else kernels.I64_MIN
                none = big if function == "min" else small
                if not known.all():
                    values = np.where(known, values, none)
            none = values.dtype.type(none)
            values = np.ascontiguousarray(values)
            self._trees[function, name] = none, values, kernels.build_tree(op, none, values)
        none, values, tree = self._trees[function, name]
        found = np.empty(len(self.t), values.dtype)
        r = self.ranges(*window)
        kernels.query(op, none, values, tree, r.low, r.until, r.high, self.arrived, self.t, found)
        return found

    def _moments(self, a: AggregationPlan, kind: str, window: tuple[int, int]) -> pa.Array:
        values, known = self.events.numbers(a.column, kind)
        n, squares = np.empty(len(self.t), np.int64), np.empty(len(self.t))
        r = self.ranges(*window)
        kernels.moments(
            values.astype(np.float64), known, r.low, r.until, r.high, self.arrived, self.t,
            n, squares,
        )  # fmt: skip
        found = squares / np.maximum(n - 1, 1)
        return _as_type(np.sqrt(found) if a.function == "std" else found, n > 1, a.output_type)

    def _ends(self, a: AggregationPlan, window: tuple[int, int]) -> pa.Array:
        """First and last, one or n of them: positions of events, whatever their values are."""
        single = a.function in {"first", "last"}
        r = self.ranges(*window)
        offsets = np.zeros(len(self.t) + 1, np.int64)
        found = kernels.ends(
            1 if single else int(a.parameter), a.function.startswith("last"),
            self.events.valid(a.column), r.low, r.until, r.high, self.arrived, self.t, offsets,
        )  # fmt: skip
        column = self.events.columns[a.column]
        if single:
            some = np.diff(offsets) > 0
            at = np.zeros(len(self.t), np.int64)
            at[some] = found
            return _cast(column.take(pa.array(at, mask=~some)), a.output_type)
        empty = np.append(np.diff(offsets) == 0, False)
        starts = pa.array(offsets.astype(np.int32), mask=empty)
        item = arrow_type(a.output_type).value_type
        return pa.ListArray.from_arrays(starts, _cast_to(column.take(pa.array(found)), item))

    def _extreme_text(self, a: AggregationPlan, window: tuple[int, int]) -> pa.Array:
        """Least and greatest of values that fit no number, by their rank among all."""
        encoded = self.events.columns[a.column].dictionary_encode()
        ordered = pc.sort_indices(encoded.dictionary)
        rank = np.empty(len(ordered), np.int64)
        rank[ordered.to_numpy()] = np.arange(len(ordered))
        known = np.asarray(encoded.indices.is_valid())
        values = np.zeros(len(known), np.int64)
        values[known] = rank[encoded.indices.drop_null().to_numpy()]
        found = self._query(a.function, a.column, values, known, window)
        some = self.count(a.column, *window) > 0
        at = pa.array(np.where(some, found, 0), mask=~some)
        return _cast(encoded.dictionary.take(ordered).take(at), a.output_type)

    def _slide(self, kernel: Callable[..., None], window: tuple[int, int], *given: Any) -> Int64:
        out = np.empty(len(self.t), np.int64)
        kernel(
            *given, self.events.at, self.events.ts, self.visible, self.by_visible(),
            self.labels_at, self.t, *window, out,
        )  # fmt: skip
        return out

    def _quantile(self, a: AggregationPlan, window: tuple[int, int]) -> pa.Array:
        values, known = self.events.numbers(a.column, column_kind(a.column_type))
        buckets = np.empty(len(values), np.int64)
        sliding.log_buckets(
            values.astype(np.float64), sketches.LOG_GAMMA, sketches.ZERO_BUCKET, buckets
        )
        used, place = np.unique(buckets, return_inverse=True)
        centres = np.array([sketches.centre(bucket) for bucket in used.tolist()])
        order = np.argsort(centres)
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        ranks = np.where(known, rank[place], -1) if len(order) else _NO_TIMES
        found = self._slide(sliding.quantiles, window, a.parameter, len(order), ranks)
        some = found >= 0
        taken = centres[order][np.where(some, found, 0)] if len(order) else np.zeros(len(found))
        return _as_type(taken, some, a.output_type)

    def _distinct(self, a: AggregationPlan, window: tuple[int, int]) -> Int64:
        """Exact below `sketches.DISTINCT_HASHES` values, the sketch's estimate above."""
        column = self.events.columns[a.column]
        if pa.types.is_floating(column.type):
            # A negative zero is a zero, and not-a-number is null.
            numbers, known = self.events.numbers(a.column, "float")
            column = pa.array(numbers + 0.0, mask=~known)
        encoded = column.dictionary_encode()
        value = encoded.indices.fill_null(-1).to_numpy().astype(np.int64)
        hashes, rank = self._hashes(encoded.dictionary, value)
        out, kth = np.empty(len(self.t), np.int64), np.empty(len(self.t), np.int64)
        sliding.distinct(
            value, len(encoded.dictionary), rank, sketches.DISTINCT_HASHES, self.events.at,
            self.events.ts, self.visible, self.by_visible(), self.labels_at, self.t, *window,
            out, kth,
        )  # fmt: skip
        large = kth >= 0
        for at in np.flatnonzero(large).tolist():
            out[at] = sketches.estimate(int(hashes[kth[at]]))
        return out

    def _hashes(self, values: pa.Array, used: Int64) -> tuple[Any, Int64]:
        """The values' hashes in order, and each value's place; none where no key has so many."""
        large = np.diff(self.events.at) >= sketches.DISTINCT_HASHES
        if not large.any():
            return _NO_TIMES, _NO_TIMES
        needed = np.unique(used[np.repeat(large, np.diff(self.events.at))])
        needed = needed[needed >= 0]
        numeric = values.cast(pa.int64()) if pa.types.is_timestamp(values.type) else values
        if pa.types.is_boolean(numeric.type):
            numeric = numeric.cast(pa.int64())
        hashes = np.zeros(len(values), np.uint64)
        hashes[needed] = [
            sketches.value_hash(v) for v in numeric.take(pa.array(needed)).to_pylist()
        ]
        order = np.argsort(hashes)
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        return hashes[order], rank


def _as_type(values: Any, some: Bool | None, value_type: str) -> pa.Array:
    """Numbers as a feature's declared type holds them; null where not `some`."""
    if column_kind(value_type) == "int" and values.dtype == np.float64:
        values = np.trunc(np.where(np.ones(1, np.bool_) if some is None else some, values, 0))
        values = values.astype(np.int64)
    return _cast(pa.array(values, mask=None if some is None else ~some), value_type)


def _cast(array: pa.Array, value_type: str) -> pa.Array:
    return _cast_to(array, arrow_type(value_type))


def _cast_to(array: pa.Array, target: pa.DataType) -> pa.Array:
    if array.type == target:
        return array
    if pa.types.is_timestamp(target) and not pa.types.is_timestamp(array.type):
        array = array.cast(pa.int64())
    if pa.types.is_timestamp(array.type) and pa.types.is_integer(target):
        return array.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).cast(target)
    return array.cast(target, safe=not pa.types.is_floating(target))
