"""Windowed features at label times: the definition of `headwater.windows` over whole columns. Pure.

The events and labels of each key are sorted by time; a window is then a range of events. Counts
are differences of ranks, sums and extremes come from a tree of partials (nothing is subtracted),
first and last from positions, sketches from counts that slide along.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from headwater import label_kernels as kernels
from headwater import label_sketch_kernels as sliding
from headwater import sketches
from headwater.arrow import TIMESTAMP, arrow_type
from headwater.catalog import AggregationPlan, column_kind
from headwater.gather import Gather, column_threads, numbers_of
from headwater.kernels import LOW_BITS
from headwater.windows import Bool, Int64, bounds

_NO_TIMES = np.zeros(0, np.int64)
#: Events and labels that one thread works on at a time: their few columns stay in its cache.
_RANGE = 1 << 18
_OPERATORS = {
    "count": kernels.SUM, "sum": kernels.SUM, "min": kernels.MIN, "max": kernels.MAX
}  # fmt: skip
#: Events that are put in their places at a time, and a thread's scratch of places.
_SLICE = 1 << 16


class EventPart(NamedTuple):
    """Some events, in any order: arrays [events]. `code` is each one's key, from 0; -1 for none.

    sequence: what orders events of one time; None where it is the order in which they come.
    """

    code: Int64 | NDArray[np.int32]
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
    _numbers: dict[str, tuple[Any, Bool | None]] = field(default_factory=dict)
    _known: dict[str, Bool | None] = field(default_factory=dict)

    @classmethod
    def sort(
        cls, parts: Sequence[EventPart], keys: int, kinds: Mapping[str, pa.DataType]
    ) -> KeyedEvents:
        """Group and sort. kinds: the columns and their types."""
        runs = _runs(parts, os.cpu_count() or 1)
        threads = column_threads()
        counts = np.zeros((len(runs), keys), np.int64)
        list(threads.map(_count, runs, counts))
        at = np.zeros(keys + 1, np.int64)
        np.cumsum(counts.sum(axis=0), out=at[1:])
        # Of one key, the events of a run come behind those of the runs before it.
        cursors = np.cumsum(counts, axis=0) - counts + at[:-1]
        places = _Places(parts, int(at[-1]), kinds)
        list(threads.map(places.put, runs, cursors))
        ts, sequence, arrived = places.numbers
        columns = dict(zip(kinds, threads.map(places.column, kinds), strict=True))
        return cls(at, ts, columns, arrived if len(arrived) else None)._ordered(sequence)

    def _ordered(self, sequence: Int64) -> KeyedEvents:
        """Each key's events in order of (time, sequence), which most logs are in already."""
        cuts, threads = _cuts(self.at), column_threads()
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
        known = self.known(column)
        return np.ones(len(self), np.bool_) if known is None else known

    def known(self, column: str) -> Bool | None:
        """As `valid`; None where all have one."""
        if column not in self._known:
            array = self.columns[column]
            known = np.asarray(array.is_valid()) if array.null_count else None
            if pa.types.is_floating(array.type):
                number = ~np.isnan(numbers_of(array, array.type))
                if not number.all():
                    known = number if known is None else known & number
            self._known[column] = known
        return self._known[column]

    def numbers(self, column: str, kind: str) -> tuple[Any, Bool | None]:
        """A numeric column as int64 or float64, null as 0, and which are not null (None: all)."""
        if column not in self._numbers:
            known = self.known(column)
            target = pa.int64() if kind == "int" else pa.float64()
            values = numbers_of(self.columns[column].cast(target), target)
            if known is not None:
                values = np.where(known, values, values.dtype.type(0))
            self._numbers[column] = values, known
        return self._numbers[column]


class _Numbers(NamedTuple):
    """A feature before it has its type: values [labels], and which there are (None: all)."""

    values: Any
    some: Bool | None


def windows_at(
    aggregations: Sequence[AggregationPlan], events: KeyedEvents, labels_at: Int64, t: Int64,
    place: Int64 | None = None,
) -> list[pa.Array]:  # fmt: skip
    """Each aggregation at each label, in the labels' order: by key, then by time.

    labels_at: where each key's labels start [keys + 1]; t: label times [labels], microseconds.
    place [labels]: another order; the value at i is then that of label `place[i]`.
    """
    cuts = _cuts(events.at + labels_at)

    def some(first: int, end: int) -> list[_Numbers | pa.Array]:
        a, b = labels_at[first], labels_at[end]
        at_labels = _AtLabels(
            aggregations, events.keys(first, end), labels_at[first : end + 1] - a, t[a:b]
        )
        return [at_labels.feature(aggregation) for aggregation in aggregations]

    def whole(a: AggregationPlan, found: Sequence[_Numbers | pa.Array]) -> pa.Array:
        if not isinstance(found[0], _Numbers):
            array = pa.concat_arrays(found)
            return array if place is None else array.take(pa.array(place))
        values = np.concatenate([one.values for one in found])
        known = None if found[0].some is None else np.concatenate([one.some for one in found])
        if place is not None:
            values = kernels.take(values, place)
            known = None if known is None else kernels.take(known, place)
        return _as_type(values, known, a.output_type)

    # The kernels release the interpreter's lock, and every key stands alone.
    threads = column_threads()
    found = list(threads.map(some, cuts[:-1], cuts[1:]))
    return list(threads.map(whole, aggregations, zip(*found, strict=True)))


def _cuts(at: Int64) -> list[int]:
    """Keys split into ranges of about `_RANGE` events (and labels), which start at `at`."""
    steps = np.arange(_RANGE, at[-1] - _RANGE // 2, _RANGE)
    inner = np.unique(np.searchsorted(at, steps)).tolist()
    return [0, *(cut for cut in inner if 0 < cut < len(at) - 1), len(at) - 1]


class _Slice(NamedTuple):
    """The events `at:end` of a part; the first of them is row `row` of all."""

    part: EventPart
    at: int
    end: int
    row: int


def _runs(parts: Sequence[EventPart], count: int) -> list[list[_Slice]]:
    """The parts' events in so many runs of about one length, each in slices."""
    slices: list[_Slice] = []
    row = 0
    for part in parts:
        n = len(part.ts)
        slices += [_Slice(part, at, min(at + _SLICE, n), row + at) for at in range(0, n, _SLICE)]
        row += n
    cuts = np.linspace(0, len(slices), count + 1).astype(int).tolist()
    return [slices[a:b] for a, b in pairwise(cuts)]


def _count(run: Sequence[_Slice], counts: Int64) -> None:
    for part, at, end, _ in run:
        kernels.count_codes(part.code[at:end], counts)


class _Places:
    """n events in their places: by key, and as they come within each."""

    def __init__(
        self, parts: Sequence[EventPart], n: int, kinds: Mapping[str, pa.DataType]
    ) -> None:
        self._parts = parts
        fields: list[list[Int64 | None]] = [
            [p.ts for p in parts],
            [p.sequence for p in parts],
            [p.arrived for p in parts],
        ]
        self.numbers = [
            np.empty(n if all(v is not None for v in values) else 0, np.int64) for values in fields
        ]
        self._gathers = {name: Gather(n, kind) for name, kind in kinds.items()}
        some = all(gather.is_numeric for gather in self._gathers.values())
        self._rows = np.empty(0 if some else n, np.int64)

    def put(self, run: Sequence[_Slice], cursor: Int64) -> None:
        """Put a run's events in their places; `cursor` [keys] is where each key's first goes."""
        scratch = np.empty(_SLICE, np.int64)
        for part, at, end, row in run:
            to = scratch[: end - at]
            kernels.place_codes(part.code[at:end], cursor, to)
            for values, out in zip(
                (part.ts, part.sequence, part.arrived), self.numbers, strict=True
            ):
                if values is not None and len(out):
                    kernels.put(values[at:end], to, out)
            for name, gather in self._gathers.items():
                if gather.is_numeric:
                    gather.add(part.columns[name].slice(at, end - at), None, to)
            if len(self._rows):
                kernels.put(np.arange(row, row + len(to)), to, self._rows)

    def column(self, name: str) -> pa.Array:
        gather = self._gathers[name]
        if not gather.is_numeric:
            for part in self._parts:
                gather.add(part.columns[name], None, _NO_TIMES)
            return gather.ordered(self._rows)
        return gather.finish([])


class _AtLabels:
    """The labels of some keys. Each one's events are a range that begins with its window and ends
    at `high`; before `until`, all of them had arrived by the label's time."""

    def __init__(
        self, aggregations: Sequence[AggregationPlan], events: KeyedEvents, labels_at: Int64,
        t: Int64,
    ) -> None:  # fmt: skip
        self.events, self.labels_at, self.t = events, labels_at, t
        late = events.arrived
        self.arrived = _NO_TIMES if late is None else late
        self.visible = events.ts if late is None else np.maximum(events.ts, late)
        self.high = np.empty_like(t)
        kernels.upper(events.at, events.ts, labels_at, t, self.high)
        self.until = self.high
        if late is not None:
            self.until = np.empty_like(t)
            kernels.settled(events.at, late, labels_at, t, self.high, self.until)
        self._windows = _windows_of(aggregations)
        self._by_visible: Int64 | None = None
        self._lows: dict[tuple[int, int], Int64] = {}
        self._folds: dict[tuple[str, str, str], Any] = {}

    def low(self, length: int, hop: int) -> Int64:
        """Where each label's window begins."""
        if (length, hop) not in self._lows:
            low = np.empty_like(self.t)
            kernels.lower(
                self.events.at, self.events.ts, self.labels_at, self.t, length, hop, self.high, low
            )
            self._lows[length, hop] = low
        return self._lows[length, hop]

    def by_visible(self) -> Int64:
        """Events in the order in which labels see them, key by key."""
        if self._by_visible is None:
            order = np.arange(len(self.events))
            if self.events.arrived is not None:
                kernels.sort_groups(order, self.events.at, self.visible, order.copy())
            self._by_visible = order
        return self._by_visible

    def feature(self, a: AggregationPlan) -> _Numbers | pa.Array:
        kind = column_kind(a.column_type)
        window = (a.window_us or -1, a.hop_us)
        if a.function == "count":
            return _Numbers(self.count(a.column, *window), None)
        if a.function in {"first", "last", "first_n", "last_n"}:
            return self._ends(a, window)
        if a.function == "count_distinct":
            return _Numbers(self._distinct(a, window), None)
        if a.function == "quantile":
            return self._quantile(a, window)
        if a.function in {"std", "var"}:
            return self._moments(a, kind, window)
        if kind == "object":
            return self._extreme_text(a, window)
        values, known = self.events.numbers(a.column, kind)
        count = self.count(a.column, *window)
        if a.is_wide and _may_overflow(values):
            return self._wide(a, values, known, count, window)
        function = "sum" if a.function == "mean" else a.function
        found = self._fold(function, a.column, values, known, window)
        if a.function == "mean":
            found = found / np.maximum(count, 1)
        return _Numbers(found, count > 0)

    def _wide(
        self, a: AggregationPlan, values: Int64, known: Bool | None, count: Int64,
        window: tuple[int, int],
    ) -> _Numbers:  # fmt: skip
        """Sum or mean of whole numbers whose sum may not fit into int64: see `kernels.LOW_BITS`."""
        low = self._fold("sum", a.column, values & LOW_BITS, known, window, "low")
        high = self._fold("sum", a.column, values >> 32, known, window, "high") + (low >> 32)
        low = low & LOW_BITS
        some = count > 0
        if a.function == "sum" and a.output_type in {"INT32", "INT64", "UNIX_TIMESTAMP"}:
            return _Numbers(high << 32 | low, some & (high >= -(2**31)) & (high < 2**31))
        total = high * 2.0**32 + low
        return _Numbers(total if a.function == "sum" else total / np.maximum(count, 1), some)

    def count(self, column: str, length: int, hop: int) -> Int64:
        """How many of each label's events have a value; for no column, how many there are."""
        known = None if column in {"", "*"} else self.events.known(column)
        if known is None and self.until is self.high:
            return self.high - self.low(length, hop)
        ones = np.ones(len(self.events), np.int64) if known is None else known.astype(np.int64)
        return self._fold("count", column, ones, None, (length, hop))

    def _fold(
        self, function: str, column: str, values: Any, known: Bool | None, window: tuple[int, int],
        part: str = "",
    ) -> Any:  # fmt: skip
        """A window's values, one of all that the function has over the column: made at once.

        part: which part of the column's values these are, where they are not whole.
        """
        windows = self._windows[function, column]
        place = (function, column, part)
        if place not in self._folds:
            op, none = _OPERATORS[function], _neutral(function, values.dtype)
            if known is not None:
                values = np.where(known, values, none)
            lows = np.array([self.low(*one) for one in windows])
            # Partials are worth their making where the labels' events are many times all events.
            ranged = int(self.high.sum() - lows[-1].sum())
            worth = ranged > 2 * (len(values) + 2 * kernels.FAN * len(self.t))
            tree = kernels.build_tree(op, none, values if worth else values[:0])
            found = np.empty(lows.shape, values.dtype)
            kernels.fold(
                op, none, values, tree, lows, self.until, self.high, self.arrived, self.t, found
            )
            self._folds[place] = found
        return self._folds[place][windows.index(window)]

    def _moments(self, a: AggregationPlan, kind: str, window: tuple[int, int]) -> _Numbers:
        values, _ = self.events.numbers(a.column, kind)
        n, squares = np.empty(len(self.t), np.int64), np.empty(len(self.t))
        kernels.moments(
            values.astype(np.float64), self.events.valid(a.column), self.low(*window), self.until,
            self.high, self.arrived, self.t, n, squares,
        )  # fmt: skip
        found = squares / np.maximum(n - 1, 1)
        return _Numbers(np.sqrt(found) if a.function == "std" else found, n > 1)

    def _ends(self, a: AggregationPlan, window: tuple[int, int]) -> pa.Array:
        """First and last, one or n of them: positions of events, whatever their values are."""
        single = a.function in {"first", "last"}
        offsets = np.zeros(len(self.t) + 1, np.int64)
        found = kernels.ends(
            1 if single else int(a.parameter), a.function.startswith("last"),
            self.events.valid(a.column), self.low(*window), self.until, self.high, self.arrived,
            self.t, offsets,
        )  # fmt: skip
        column = self.events.columns[a.column]
        if single:
            some = np.diff(offsets) > 0
            at = np.zeros(len(self.t), np.int64)
            at[some] = found
            return _cast(column.take(pa.array(at, mask=~some)), a.output_type)
        items = _cast(column.take(pa.array(found)), a.output_type.removesuffix("_LIST"))
        none = np.diff(offsets) == 0
        if items.null_count:  # of these, one is not of the declared type
            null = np.flatnonzero(np.asarray(items.is_null()))
            none[np.searchsorted(offsets, null, "right") - 1] = True
        starts = pa.array(offsets.astype(np.int32))
        return pa.ListArray.from_arrays(starts, items, mask=pa.array(none))

    def _extreme_text(self, a: AggregationPlan, window: tuple[int, int]) -> pa.Array:
        """Least and greatest of values that fit no number, by their rank among all."""
        encoded = self.events.columns[a.column].dictionary_encode()
        ordered = pc.sort_indices(encoded.dictionary)
        rank = np.empty(len(ordered), np.int64)
        rank[ordered.to_numpy()] = np.arange(len(ordered))
        known = np.asarray(encoded.indices.is_valid())
        values = np.zeros(len(known), np.int64)
        values[known] = rank[encoded.indices.drop_null().to_numpy()]
        found = self._fold(a.function, a.column, values, known, window)
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

    def _quantile(self, a: AggregationPlan, window: tuple[int, int]) -> _Numbers:
        values, _ = self.events.numbers(a.column, column_kind(a.column_type))
        known = self.events.valid(a.column)
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
        return _Numbers(taken, some)

    def _distinct(self, a: AggregationPlan, window: tuple[int, int]) -> Int64:
        """Exact below `sketches.DISTINCT_HASHES` values, the sketch's estimate above."""
        column = self.events.columns[a.column]
        if pa.types.is_floating(column.type):
            # A negative zero is a zero, and not-a-number is null.
            numbers, known = self.events.numbers(a.column, "float")
            column = pa.array(numbers + 0.0, mask=None if known is None else ~known)
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


def _windows_of(
    aggregations: Sequence[AggregationPlan],
) -> dict[tuple[str, str], list[tuple[int, int]]]:
    """The windows (length or -1, hop) of each operator over a column, from the shortest on."""
    found: dict[tuple[str, str], set[tuple[int, int]]] = {}
    for a in aggregations:
        operator = "sum" if a.function == "mean" else a.function
        for name in (operator, "count"):
            found.setdefault((name, a.column), set()).add((a.window_us or -1, a.hop_us))
    return {name: sorted(windows, key=_length) for name, windows in found.items()}


def _length(window: tuple[int, int]) -> int:
    return kernels.I64_MAX if window[0] < 0 else window[0] + window[1]


def _neutral(function: str, kind: Any) -> Any:
    """What an operator's value is before any event."""
    if function in {"sum", "count"}:
        return kind.type(0)
    big = function == "min"
    if kind == np.float64:
        return kind.type(np.inf if big else -np.inf)
    return kind.type(kernels.I64_MAX if big else kernels.I64_MIN)


def _may_overflow(values: Int64) -> bool:
    """Whether the sum of some of these might not fit into int64."""
    if not len(values):
        return False
    return max(int(values.max()), -int(values.min())) * len(values) >= 2**63


def _as_type(values: Any, some: Bool | None, value_type: str) -> pa.Array:
    """Numbers as a feature's declared type holds them; null where not `some`, or where it cannot.

    See `windows.bounds`; a fraction is cut off.
    """
    kind = column_kind(value_type)
    if value_type == "BOOL":
        values = values != 0
    elif kind == "int":
        fits = np.ones(len(values), np.bool_)
        if values.dtype == np.float64:
            values = np.trunc(values)
            fits = (values >= -(2.0**63)) & (values < 2.0**63)
            values = np.where(fits, values, 0).astype(np.int64)
        least, greatest = bounds(value_type)
        fits &= (values >= least) & (values <= greatest)
        some = fits if some is None else some & fits
    found = pa.array(values, mask=None if some is None else ~some)
    return found.cast(arrow_type(value_type), safe=kind != "float")


def _cast(array: pa.Array, value_type: str) -> pa.Array:
    """Values of a column as a feature's declared type."""
    if array.type == arrow_type(value_type) or column_kind(value_type) == "object":
        return array.cast(arrow_type(value_type))
    if pa.types.is_timestamp(array.type):
        array = array.cast(TIMESTAMP)
    wide = pa.float64() if pa.types.is_floating(array.type) else pa.int64()
    return _as_type(numbers_of(array.cast(wide), wide), np.asarray(array.is_valid()), value_type)
