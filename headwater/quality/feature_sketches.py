"""What a feature held over some time, as sketches that merge: an hour's, a day's, a training set's.

Counts and moments are exact. Numbers keep a KLL sketch of their distribution (Karnin, Lang,
Liberty 2016; a rank is within 1.33 % with 99 % confidence), categories their most frequent values
(Anderson et al. 2017; exact for up to 384 different ones) and a HyperLogLog of how many there are
(2.3 %). All are Apache DataSketches', whose bytes its Java and C++ libraries read as well. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasketches import (
    frequent_items_error_type,
    frequent_strings_sketch,
    hll_sketch,
    hll_union,
    kll_doubles_sketch,
    tgt_hll_type,
)
from numpy.typing import NDArray

Kind = Literal["number", "category", "other"]
#: Size of a KLL sketch: 1.33 % of rank error, at most about 5 KB.
KLL_K = 200
#: A table of 512 values, three quarters full at most.
_LG_ITEMS = 9
_LG_REGISTERS = 11
#: Standard deviations within which 99 % of a normal distribution lie.
PERCENTILE_99 = 2.576
#: Of a longer text, its beginning counts.
TEXT = 200
HOUR_US = 3_600_000_000

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def kind_of(type_: pa.DataType) -> Kind:
    """How a column is looked at: times, bytes and lists only by how many there are."""
    if pa.types.is_dictionary(type_):
        return kind_of(type_.value_type)
    if pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_):
        return "number"
    text = pa.types.is_string(type_) or pa.types.is_large_string(type_)
    return "category" if text or pa.types.is_boolean(type_) else "other"


class Stored(msgspec.Struct, frozen=True):
    """A sketch at rest. `type`: Arrow's name of it; `squares`: summed squared deviations."""

    type: str
    kind: Kind
    rows: int
    nulls: int
    mean: float = 0.0
    squares: float = 0.0
    low: float = 0.0
    high: float = 0.0
    numbers: bytes = b""
    items: bytes = b""
    distinct: bytes = b""


class FeatureSketch:
    """What one feature held; a number that is not finite counts as null."""

    def __init__(self, type_: str, kind: Kind) -> None:
        self.type, self.kind = type_, kind
        self.rows = self.nulls = 0
        self.mean = self.squares = 0.0
        self.low, self.high = float("inf"), float("-inf")
        self.numbers: Any = kll_doubles_sketch(KLL_K) if kind == "number" else None
        self.items: Any = frequent_strings_sketch(_LG_ITEMS) if kind == "category" else None
        self.distinct: Any = _registers() if kind == "category" else None

    @property
    def known(self) -> int:
        """Values that are not null."""
        return self.rows - self.nulls

    @property
    def null_ratio(self) -> float:
        return self.nulls / self.rows if self.rows else 0.0

    @property
    def std(self) -> float:
        """The sample's standard deviation; 0 below two values."""
        return float((self.squares / (self.known - 1)) ** 0.5) if self.known > 1 else 0.0

    def add_numbers(self, values: Floats, nulls: int) -> None:
        """values: finite ones; nulls: how many rows came without."""
        self.rows += len(values) + nulls
        self.nulls += nulls
        if len(values):
            mean = float(values.mean())
            deviations = values - mean
            values = np.sort(values)  # quicker than the sketch sorts them by and by
            self._add_moments(
                len(values), mean, float(np.square(deviations).sum()),
                float(values[0]), float(values[-1]),
            )  # fmt: skip
            self.numbers.update(values)

    def add_counts(self, values: Iterable[str], counts: Iterable[int], nulls: int) -> None:
        """Different values and how often each came."""
        self.nulls += nulls
        self.rows += nulls
        for value, count in zip(values, counts, strict=True):
            self.rows += count
            self.items.update(value, count)
            self.distinct.update(value)

    def add_rows(self, rows: int, nulls: int) -> None:
        self.rows += rows
        self.nulls += nulls

    def merge(self, other: FeatureSketch) -> None:
        """Take in another's of the same kind; it stays as it is."""
        if other.numbers is not None and other.known:
            self._add_moments(
                other.known, other.mean, other.squares, other.low, other.high, self.known
            )
            self.numbers.merge(other.numbers)
        if other.items is not None and other.known:
            self.items.merge(other.items)
            union = hll_union(_LG_REGISTERS)
            union.update(self.distinct)
            union.update(other.distinct)
            self.distinct = union.get_result(tgt_hll_type.HLL_4)
        self.rows += other.rows
        self.nulls += other.nulls

    def _add_moments(
        self, n: int, mean: float, squares: float, low: float, high: float, held: int | None = None
    ) -> None:
        """Chan, Golub, LeVeque 1979. `held`: values so far; None: rows already count the new."""
        held = self.known - n if held is None else held
        delta, total = mean - self.mean, held + n
        self.squares += squares + delta * delta * held * n / total
        self.mean += delta * n / total
        self.low, self.high = min(self.low, low), max(self.high, high)

    # -- what it tells -------------------------------------------------------------------------

    def points(self) -> tuple[Floats, Floats]:
        """Values in ascending order, and the share of all that is at or below each."""
        if self.numbers is None or not self.known:
            return np.zeros(0), np.zeros(0)
        pairs = np.array(list(self.numbers), np.float64)
        pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
        return pairs[:, 0], np.cumsum(pairs[:, 1]) / pairs[:, 1].sum()

    def quantiles(self, ranks: Sequence[float]) -> list[float]:
        if self.numbers is None or not self.known:
            return []
        return [float(value) for value in self.numbers.get_quantiles(list(ranks))]

    def rank_deviation(self, of_bin: bool = False) -> float:
        """Standard deviation of a rank's (or a bin's share's) error by the sketch; 0: exact."""
        if self.numbers is None or not self.numbers.is_estimation_mode():
            return 0.0
        return float(self.numbers.normalized_rank_error(of_bin)) / PERCENTILE_99

    def counts(self) -> tuple[dict[str, int], int]:
        """Frequent values with their counts, and by how much each may be too high."""
        if self.items is None:
            return {}, 0
        found = self.items.get_frequent_items(frequent_items_error_type.NO_FALSE_NEGATIVES, 0)
        counts = {str(row[0]): int(row[1]) for row in found}
        return counts, max((int(row[3] - row[2]) for row in found), default=0)

    @property
    def all_counted(self) -> bool:
        """Whether `counts` has every value that came, exactly."""
        counts, error = self.counts()
        return error == 0 and sum(counts.values()) == self.known

    def distinct_values(self) -> int | None:
        """How many different values there were, about; None where that is not kept."""
        return None if self.distinct is None else round(self.distinct.get_estimate())

    # -- at rest -------------------------------------------------------------------------------

    def stored(self) -> Stored:
        filled = self.numbers is not None and self.known > 0
        return Stored(
            self.type, self.kind, self.rows, self.nulls, self.mean, self.squares,
            self.low if filled else 0.0, self.high if filled else 0.0,
            self.numbers.serialize() if filled else b"",
            self.items.serialize() if self.items is not None and self.known else b"",
            self.distinct.serialize_compact() if self.distinct is not None and self.known else b"",
        )  # fmt: skip

    @classmethod
    def of(cls, held: Stored) -> FeatureSketch:
        made = cls(held.type, held.kind)
        made.rows, made.nulls = held.rows, held.nulls
        made.mean, made.squares = held.mean, held.squares
        if held.numbers:
            made.low, made.high = held.low, held.high
            made.numbers = kll_doubles_sketch.deserialize(held.numbers)
        if held.items:
            made.items = frequent_strings_sketch.deserialize(held.items)
            made.distinct = hll_sketch.deserialize(held.distinct)
        return made

    def as_json(self) -> dict[str, Any]:
        """For a manifest: bytes as base64."""
        made: dict[str, Any] = msgspec.to_builtins(self.stored())
        return made

    @classmethod
    def from_json(cls, data: Any) -> FeatureSketch:
        """Raises ValueError for what is no sketch."""
        return cls.of(msgspec.convert(data, Stored))


def merged(sketches: Iterable[FeatureSketch]) -> FeatureSketch | None:
    """One of several, which stay as they are: of the type of most rows; None of none."""
    by_type: dict[tuple[str, Kind], list[FeatureSketch]] = {}
    for sketch in sketches:
        by_type.setdefault((sketch.type, sketch.kind), []).append(sketch)
    if not by_type:
        return None
    (type_, kind), most = max(by_type.items(), key=lambda kv: sum(s.rows for s in kv[1]))
    whole = FeatureSketch(type_, kind)
    for sketch in most:
        whole.merge(sketch)
    return whole


def sketch_column(column: pa.Array | pa.ChunkedArray) -> FeatureSketch:
    """The sketch of a whole column."""
    if not len(column):
        return _empty(column.type)
    (made,) = Hours(np.zeros(len(column), np.int64)).sketches(column).values()
    return made


class Hours:
    """Rows of a batch by the hour of their time, so that each column is sketched by hour."""

    def __init__(self, times_us: Ints) -> None:
        hours = times_us // HOUR_US
        in_order = bool((hours[1:] >= hours[:-1]).all())
        self._order = None if in_order else np.argsort(hours, kind="stable")
        ordered = hours if self._order is None else hours[self._order]
        first = np.r_[True, ordered[1:] != ordered[:-1]][: len(hours)]
        self._starts = np.flatnonzero(first)
        self._ends = np.append(self._starts[1:], len(hours))[: len(self._starts)]
        #: The hours' beginnings, microseconds.
        self.at = [int(hour) * HOUR_US for hour in ordered[self._starts]]

    def rows(self) -> dict[int, int]:
        return {
            hour: int(end - start)
            for hour, start, end in zip(self.at, self._starts, self._ends, strict=True)
        }

    def sketches(self, column: pa.Array | pa.ChunkedArray) -> dict[int, FeatureSketch]:
        """The sketch of each hour."""
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        kind = kind_of(column.type)
        made = {hour: FeatureSketch(str(column.type), kind) for hour in self.at}
        if kind == "number":
            values = column.cast(pa.float64(), safe=False)
            values = values.fill_null(np.nan) if values.null_count else values
            self._add_numbers(made, values.to_numpy(zero_copy_only=False))
        elif kind == "category":
            self._add_categories(made, column)
        else:
            known = self._sorted(column.is_valid().to_numpy(zero_copy_only=False))
            for hour, start, end in zip(self.at, self._starts, self._ends, strict=True):
                rows = int(end - start)
                made[hour].add_rows(rows, rows - int(known[start:end].sum()))
        return made

    def _sorted(self, values: NDArray[Any]) -> NDArray[Any]:
        return values if self._order is None else values[self._order]

    def _add_numbers(self, made: dict[int, FeatureSketch], values: Floats) -> None:
        values = self._sorted(values)
        finite = np.isfinite(values)
        whole = bool(finite.all())
        for hour, start, end in zip(self.at, self._starts, self._ends, strict=True):
            part = values[start:end]
            known = part if whole else part[finite[start:end]]
            made[hour].add_numbers(known, len(part) - len(known))

    def _add_categories(self, made: dict[int, FeatureSketch], column: pa.Array) -> None:
        if pa.types.is_boolean(column.type):
            column = pc.if_else(column, "true", "false")
        encoded = column.dictionary_encode()
        names = pc.utf8_slice_codeunits(encoded.dictionary, 0, TEXT).to_pylist()
        codes = self._sorted(encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False))
        for hour, start, end in zip(self.at, self._starts, self._ends, strict=True):
            found, counts = np.unique(codes[start:end], return_counts=True)
            nulls = int(counts[0]) if len(found) and found[0] < 0 else 0
            first = 1 if nulls else 0
            made[hour].add_counts(
                (names[code] for code in found[first:]), counts[first:].tolist(), nulls
            )


def _registers() -> Any:
    return hll_sketch(_LG_REGISTERS, tgt_hll_type.HLL_4)


def _empty(type_: pa.DataType) -> FeatureSketch:
    return FeatureSketch(str(type_), kind_of(type_))
