"""What a windowed feature is: tiles, hops and merging; one definition, online and offline.

An aggregation over window W with hop H has, at time t, the value over the events with event time
in [floor_H(t - W), t]. The state of a key, for each Kafka partition that feeds it, is a *section*:

    offset, source, watermark, tiles, heads     5 words; offset is the last event applied
    start of each tile                          ascending event times, microseconds
    partials of each tile                       `width` words: the operators of `headwater.kernels`
    head events                                 time, sequence, known bits, one word a column
    sketches                                    msgpack, see `headwater.sketches`

Tiles coarsen as they age: one is only as fine as the windows that can still begin in it need.
Head events lie ahead of the clock; they wait, whole, until their time has come.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from headwater import kernels, read_kernels, sketch_tiles, sketches
from headwater.catalog import AggregationPlan, ViewPlan, column_kind
from headwater.codec import WINDOW_HEADER
from headwater.sketch_tiles import Sketch, Sketches, SketchTiles
from headwater.states import fold_sections
from headwater.times import FIRST_US, LAST_US

Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]
#: How far a clock that reads may lag behind the newest event time that was accepted.
CLOCK_SLACK_US = 3_600_000_000
SECTION_WORDS = kernels.HEADER


class Column(NamedTuple):
    """A column of events: values [n] (ndarray, or a list for object columns), validity [n]."""

    values: Any
    valid: Bool

    def cell(self, i: int) -> Any:
        """Value i as a plain Python value; None for null and not-a-number."""
        if not self.valid[i]:
            return None
        value = self.values[i]
        value = value.item() if isinstance(value, np.generic) else value
        return None if isinstance(value, float) and math.isnan(value) else value


@dataclass(frozen=True)
class EventBatch:
    """Events as columns; all arrays have length n.

    key: index of the key, 0-based. ts: event time, microseconds. offset: Kafka offset (any
    ascending number offline). source: `source_id` of topic and partition. watermark: the greatest
    event time of the partition up to and including this event.
    """

    key: Int64
    ts: Int64
    offset: Int64
    source: Int64
    watermark: Int64
    columns: dict[str, Column] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ts)


def tile_starts(section: bytes) -> Int64:
    """When each tile of a section begins, ascending, in microseconds."""
    tiles = int(np.frombuffer(section, np.int64, SECTION_WORDS)[3])
    return np.frombuffer(section, np.int64, tiles, 8 * SECTION_WORDS)


def source_id(topic: str, partition: int) -> int:
    """A number for a topic's partition; its low 16 bits are the partition."""
    return (crc32(topic.encode()) & 0x7FFFFFFF) << 16 | (partition & 0xFFFF)


class WindowProgram:
    """A windowed view, compiled: which partials its tiles hold and how features come from them."""

    def __init__(self, aggregations: Sequence[AggregationPlan]) -> None:
        self.aggregations = tuple(aggregations)
        used = sorted({a.column for a in aggregations if a.column not in {"", "*"}})
        self.columns = tuple(used)
        kinds = {a.column: column_kind(a.column_type) for a in aggregations}
        self._kinds = kinds
        self._numeric = [c for c in used if kinds[c] != "object"]
        self._objects = [c for c in used if kinds[c] == "object"]
        # Of an object column the slots know only whether it is null: enough to count.
        self._slot_names = [*self._numeric, *self._objects]
        self.slot_columns = len(self._slot_names)
        self.windows = sorted({(a.window_us or -1, a.hop_us) for a in aggregations})
        self._window_index = {window: i for i, window in enumerate(self.windows)}
        self.ops, self._slot_of, self.width = self._build_slots()
        self.levels = _levels(self.windows)
        self.sketches = Sketches(
            (
                Sketch(a.function, a.column, a.parameter)
                for a in aggregations
                if sketches.is_sketch(a.function, kinds[a.column])
            ),
            self.levels,
        )
        self._windows = np.array(self.windows, np.int64).reshape(-1, 2)
        self._identity = self._identities(1)[0]

    @classmethod
    def of(cls, view: ViewPlan) -> WindowProgram:
        return cls(view.aggregations)

    def _build_slots(self) -> tuple[Int64, dict[tuple[str, str], int], int]:
        """The operators as rows (op, column, first word, column is integer), and where each is."""
        rows: list[tuple[int, int, int, int]] = []
        slot_of: dict[tuple[str, str], int] = {}
        width = 0
        for a in self.aggregations:
            kind = self._kinds[a.column]
            for primitive in _primitives(a.function, kind):
                if (primitive, a.column) in slot_of:
                    continue
                op = _OPERATORS[primitive, "int" if kind == "int" else "float"]
                if primitive == "sum" and a.is_wide:
                    op = kernels.SUM_WIDE
                column = -1 if a.column in {"", "*"} else self._slot_names.index(a.column)
                rows.append((op, column, width, int(kind == "int")))
                slot_of[primitive, a.column] = width
                width += kernels.WIDTHS[op]
        return np.array(rows, np.int64).reshape(-1, 4), slot_of, width

    def is_late(self, ts: Int64, watermark: Int64) -> Bool:
        """Which events no window can use any more, given the watermark each one met."""
        late = np.ones(len(ts), np.bool_)
        for length, hop in self.windows:
            if length < 0:
                return np.zeros(len(ts), np.bool_)
            late &= ts < (watermark - length) // hop * hop
        return late

    @property
    def reach_us(self) -> int | None:
        """How old the newest tile of a key must be for no window to use it; None: never.

        The clocks of readers may be behind by CLOCK_SLACK_US.
        """
        if self.windows[0][0] < 0:
            return None
        return max(length + 2 * hop for length, hop in self.windows) + CLOCK_SLACK_US

    # -- folding -------------------------------------------------------------------------------

    def fold(self, states: Sequence[bytes | None], batch: EventBatch, now_us: int) -> list[bytes]:
        """Fold a partition's events into the sections of its keys: `states.fold_sections`."""
        return fold_sections(self, states, batch, now_us)

    def matrix(self, batch: EventBatch) -> tuple[Int64, Bool]:
        """Slot columns as one int64 matrix [n, columns] (floats by their bits), and validity."""
        n = len(batch)
        values = np.zeros((n, self.slot_columns), np.int64)
        valid = np.zeros((n, self.slot_columns), np.bool_)
        for c, name in enumerate(self._slot_names):
            column = batch.columns[name]
            known = column.valid
            if self._kinds[name] == "int":
                values[:, c] = np.asarray(column.values, np.int64)
            elif self._kinds[name] == "float":
                floats = np.asarray(column.values, np.float64)
                known = known & ~np.isnan(floats)
                values[:, c] = floats.view(np.int64)
            valid[:, c] = known
        return values, valid

    def sketches_of(self, section: bytes) -> SketchTiles:
        """The sketches behind a section's words."""
        tiles = int.from_bytes(section[24:32], "little")
        heads = int.from_bytes(section[32:40], "little")
        words = SECTION_WORDS + tiles * (1 + self.width) + heads * (3 + self.slot_columns)
        return sketch_tiles.decode(section[8 * words :])

    # -- reading -------------------------------------------------------------------------------

    def read(self, values: Sequence[Sequence[bytes]], t_us: int) -> list[list[Any]]:
        """The features of n entities at time t: one list [n] for each aggregation, null as None.

        values[i]: the sections of entity i, one for each partition; none is an empty window.
        """
        owners = [i for i, sections in enumerate(values) for _ in sections]
        parts = [section for sections in values for section in sections]
        words = np.frombuffer(b"".join(parts), np.int64)
        at = _starts(np.array([len(part) >> 3 for part in parts], np.int64))[:-1]
        partials = self._identities(len(values) * len(self.windows)).reshape(len(values), -1)
        kernels.read(
            self.ops, self.width, self.slot_columns, words, at,
            np.array(owners, np.int64), self._windows, t_us, partials,
        )  # fmt: skip
        shaped = partials.reshape(len(values), len(self.windows), self.width)
        sketched = [self._read_sketches(sections, t_us) for sections in values]
        return [
            self._feature(a, shaped[:, self._window_index[a.window_us or -1, a.hop_us]], sketched)
            for a in self.aggregations
        ]

    @cached_property
    def reads_whole(self) -> bool:
        """Whether compiled loops alone can make the features: no sketches, no objects."""
        return not self.sketches and all(
            column_kind(a.output_type) != "object" for a in self.aggregations
        )

    @staticmethod
    def joined(data: Sequence[bytes | None]) -> tuple[Int64, Int64]:
        """Whole values of Redis as words one behind the other, and how many each has [n]."""
        # A value is whole words; what is not is no state.
        kept = [value if value and not len(value) & 7 else b"" for value in data]
        sizes = np.array([len(value) >> 3 for value in kept], np.int64)
        return np.frombuffer(b"".join(kept), np.int64), sizes

    def read_columns(
        self, words: Int64, sizes: Int64, table: Int64, t_us: int
    ) -> tuple[Int64, NDArray[np.uint8], Int64, tuple[int, int]]:
        """Features at time t of n whole values of Redis, `joined`; only where `reads_whole`.

        table: a `result_table` of some features. Returns words [features, n] (a float by its bits,
        NaN for null), which are null (1), the newest event time [n] that an entity's partitions had
        shown, and how many are null, and how many floats of these.
        """
        n = len(sizes)
        out = np.empty((len(table), n), np.int64)
        status = np.zeros((len(table), n), np.uint8)
        newest = np.empty(n, np.int64)
        nulls = read_kernels.read_windows(
            self.ops, self.width, self.slot_columns, self._windows, words, sizes,
            _VALUE_HEADER, t_us, self._identity, table, out, status, newest,
        )  # fmt: skip
        return out, status, newest, nulls

    def result_table(self, wanted: Sequence[tuple[int, int]]) -> Int64:
        """For `read_columns`: how each wanted (aggregation, row of its status) is made."""
        rows = []
        for i, status_row in wanted:
            a = self.aggregations[i]
            kind = self._kinds[a.column]
            count = self._slot_of["count", a.column]
            primitive = {"mean": "sum", "std": "moments", "var": "moments"}.get(
                a.function, a.function
            )
            slot = self._slot_of.get((primitive, a.column), count)
            how = _RESULTS.get(a.function, read_kernels.PLAIN)
            if a.is_wide:
                how = read_kernels.WIDE if a.function == "sum" else read_kernels.WIDE_MEAN
            window = self._window_index[a.window_us or -1, a.hop_us]
            result = read_kernels.FLOAT
            if column_kind(a.output_type) == "int":
                result = read_kernels.TRUTH if a.output_type == "BOOL" else read_kernels.WHOLE
            least, greatest = bounds(a.output_type)
            rows.append(
                (window, how, slot, count, int(kind == "int"), result, status_row, least, greatest)
            )
        return np.array(rows, np.int64).reshape(-1, 9)

    def _read_sketches(self, sections: Sequence[bytes], t_us: int) -> dict[Any, Any]:
        """Merged partial of each (sketch, window) at time t."""
        if not self.sketches:
            return {}
        return self.sketches.read([self.sketches_of(s) for s in sections], self.windows, t_us)

    def _identities(self, n: int) -> Int64:
        one = np.empty(self.width, np.int64)
        kernels.identity(self.ops, one, one.view(np.float64), 0)
        return np.tile(one, (n, 1))

    def _feature(
        self, a: AggregationPlan, partials: Int64, sketched: Sequence[dict[Any, Any]]
    ) -> list[Any]:
        """One feature of every row, from its window's partials [n, width]."""
        kind = self._kinds[a.column]
        if sketches.is_sketch(a.function, kind):
            key = (Sketch(a.function, a.column, a.parameter), (a.window_us or -1, a.hop_us))
            found = [sketches.finalize(a.function, a.parameter, one[key]) for one in sketched]
        else:
            found = self._from_slots(a, kind, partials)
        return [_as_type(value, a.output_type) for value in found]

    def _from_slots(self, a: AggregationPlan, kind: str, partials: Int64) -> list[Any]:
        floats = partials.view(np.float64)
        count = partials[:, self._slot_of["count", a.column]]
        if a.function == "count":
            return count.tolist()
        enough = count > (1 if a.function in {"std", "var"} else 0)
        if a.function in {"std", "var"}:
            squares = floats[:, self._slot_of["moments", a.column] + 2]
            values: Any = squares / np.maximum(count - 1, 1)
            values = np.sqrt(values) if a.function == "std" else values
        elif a.is_wide:
            at = self._slot_of["sum", a.column]
            wide = [(high << 32) + low for low, high in partials[:, at : at + 2].tolist()]
            if a.function == "sum":
                return [v if ok else None for v, ok in zip(wide, enough.tolist(), strict=True)]
            values = np.array(wide, np.float64) / np.maximum(count, 1)
        elif a.function == "mean":
            at = self._slot_of["sum", a.column]
            total = partials[:, at] if kind == "int" else floats[:, at]
            values = total / np.maximum(count, 1)
        else:
            at = self._slot_of[a.function, a.column] + (2 if a.function in {"first", "last"} else 0)
            values = partials[:, at] if kind == "int" else floats[:, at]
        return [v if ok else None for v, ok in zip(values.tolist(), enough.tolist(), strict=True)]


def bounds(value_type: str) -> tuple[int, int]:
    """The least and the greatest whole number that a feature of an integer's type holds."""
    return _BOUNDS.get(value_type, (kernels.I64_MIN, kernels.I64_MAX))


_BOUNDS = {"INT32": (-(2**31), 2**31 - 1), "BOOL": (0, 1), "UNIX_TIMESTAMP": (FIRST_US, LAST_US)}
_VALUE_HEADER = int.from_bytes(WINDOW_HEADER, "little", signed=True)
_RESULTS = {
    "count": read_kernels.EVENTS, "mean": read_kernels.MEAN, "var": read_kernels.VAR,
    "std": read_kernels.STD, "first": read_kernels.ENDS, "last": read_kernels.ENDS,
}  # fmt: skip


_OPERATORS = {
    ("count", "int"): kernels.COUNT,
    ("count", "float"): kernels.COUNT,
    ("sum", "int"): kernels.SUM_I,
    ("sum", "float"): kernels.SUM_F,
    ("min", "int"): kernels.MIN_I,
    ("min", "float"): kernels.MIN_F,
    ("max", "int"): kernels.MAX_I,
    ("max", "float"): kernels.MAX_F,
    ("moments", "int"): kernels.MOMENTS,
    ("moments", "float"): kernels.MOMENTS,
    ("first", "int"): kernels.FIRST,
    ("first", "float"): kernels.FIRST,
    ("last", "int"): kernels.LAST,
    ("last", "float"): kernels.LAST,
}


def _primitives(function: str, kind: str) -> tuple[str, ...]:
    """The slot partials that a function needs; every column in use is counted."""
    if sketches.is_sketch(function, kind):
        return ("count",)
    primitive = {"mean": "sum", "std": "moments", "var": "moments"}.get(function, function)
    return ("count",) if primitive == "count" else ("count", primitive)


def _levels(windows: Sequence[tuple[int, int]]) -> Int64:
    """Tile lengths by age, as `kernels.tile_start` reads them."""
    sliding = sorted((length + hop, hop) for length, hop in windows if length >= 0)
    levels: list[tuple[int, int]] = []
    age = 0
    for i, (reach, _) in enumerate(sliding):
        levels.append((age, math.gcd(*(hop for _, hop in sliding[i:]))))
        age = reach + CLOCK_SLACK_US
    lifetime = any(length < 0 for length, _ in windows)
    levels.append((age, 0 if lifetime else -1))
    return np.array(levels, np.int64)


def _starts(sizes: Int64) -> Int64:
    starts = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=starts[1:])
    return starts


def _as_type(value: Any, value_type: str) -> Any:
    """A result as its feature's declared type holds it; None where it cannot, or a part of it."""
    if value is None:
        return None
    if isinstance(value, list):
        inner = value_type.removesuffix("_LIST")
        found = [_as_type(one, inner) for one in value]
        return None if None in found else found
    kind = column_kind(value_type)
    if kind == "float":
        return float(value)
    if value_type == "BOOL":
        return bool(value)
    if kind != "int":
        return value
    least, greatest = bounds(value_type)
    whole = int(value) if math.isfinite(value) else greatest + 1
    return whole if least <= whole <= greatest else None
