"""Profiles of columns, batch by batch: counts, nulls, moments, quantiles, distinct values. Pure.

Numbers fall into buckets by sign, exponent and the first six bits of the fraction, so a quantile
is within 0.8 % of the exact lower one, relative to its size. Distinct values are counted by
HyperLogLog (Flajolet et al. 2007) with 4,096 registers: a standard error of 1.6 %.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from headwater.quality import profile_kernels as kernels
from headwater.quality.feature_sketches import FeatureSketch, sketch_column

QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
#: Parts of a histogram.
BINS = 24
#: The most frequent values that a profile of text names.
TOP = 20
#: Distinct texts that are counted one by one; past it, new ones are only estimated.
_COUNTED = 10_000


class ColumnProfile:
    """What one column held so far. `add` batches, then ask for the `result`.

    sketched: keep a `sketch` as well, which later spans of time can be compared with.
    """

    def __init__(self, sketched: bool = False) -> None:
        self._sketched = sketched
        self.sketch: FeatureSketch | None = None
        self._rows = self._nulls = 0
        self._registers = np.zeros(kernels.REGISTERS, np.uint8)
        self._buckets = np.zeros(kernels.BUCKETS, np.int64)
        self._moments = np.array([0.0, 0.0, 0.0, np.inf, -np.inf])
        self._texts: dict[Any, int] = {}
        self._numeric = True

    def add(self, column: pa.Array) -> None:
        """A batch of the column's values; not-a-number counts as null."""
        if self._sketched:
            self._add_sketch(sketch_column(column))
        self._rows += len(column)
        self._nulls += column.null_count
        kind = column.type
        if pa.types.is_boolean(kind) or pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            column = column.cast(pa.int64())
        if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
            known = column.drop_null() if column.null_count else column
            floating = pa.types.is_floating(known.type)
            values = known.cast(pa.float64() if floating else pa.int64(), safe=False).to_numpy()
            add = kernels.add_floats if floating else kernels.add_integers
            self._nulls += add(values, self._moments, self._buckets, self._registers)
            return
        self._numeric = False
        if not pa.types.is_nested(kind):
            self._add_texts(column)

    def _add_sketch(self, sketch: FeatureSketch) -> None:
        if self.sketch is None:
            self.sketch = sketch
        else:
            self.sketch.merge(sketch)

    def _add_texts(self, column: pa.Array) -> None:
        import pandas as pd

        counts = column.drop_null().value_counts()
        values = counts.field("values")
        for value, count in zip(values.to_pylist(), counts.field("counts").to_pylist(),
                                strict=True):  # fmt: skip
            if value in self._texts or len(self._texts) < _COUNTED:
                self._texts[value] = self._texts.get(value, 0) + count
        plain = values.cast(pa.string()) if not pa.types.is_binary(values.type) else values
        kernels.add_hashes(
            pd.util.hash_array(np.asarray(plain.to_pylist(), object)), self._registers
        )

    def result(self) -> dict[str, Any]:
        """Counts; for numbers min, max, mean, std, quantiles and a histogram; for text its top
        values."""
        known = self._rows - self._nulls
        found: dict[str, Any] = {
            "count": self._rows,
            "nulls": self._nulls,
            "null_ratio": self._nulls / self._rows if self._rows else 0.0,
            "distinct": min(round(kernels.cardinality(self._registers)), known),
        }
        if not self._numeric:
            if len(self._texts) < _COUNTED:
                found["distinct"] = len(self._texts) or found["distinct"]
            order = sorted(self._texts.items(), key=lambda item: (-item[1], str(item[0])))
            found["top"] = [[str(value), count] for value, count in order[:TOP]]
        elif known:
            n, mean, squares, low, high = self._moments.tolist()
            found |= {
                "min": low, "max": high, "mean": mean,
                "std": (squares / (n - 1)) ** 0.5 if n > 1 else None,
                "quantiles": {str(q): self._quantile(q, low, high) for q in QUANTILES},
                "histogram": self._histogram(low, high),
            }  # fmt: skip
        return found

    def _histogram(self, low: float, high: float) -> dict[str, Any]:
        """How many values lie in each of `BINS` parts of [from, to], which leaves out the outermost
        hundredths; what is beyond counts at the ends."""
        start, end = (
            self._quantile(QUANTILES[0], low, high),
            self._quantile(QUANTILES[-1], low, high),
        )
        if not (np.isfinite(start) and np.isfinite(end) and start < end):
            return {"from": start, "to": end, "counts": [int(self._moments[0])]}
        held = np.flatnonzero(self._buckets)
        middles = (held.astype(np.uint64) << np.uint64(kernels.SHIFT)) | np.uint64(
            1 << (kernels.SHIFT - 1)
        )
        values = np.clip(middles.view(np.float64), start, end)
        counts, _ = np.histogram(values, BINS, (start, end), weights=self._buckets[held])
        return {"from": start, "to": end, "counts": counts.astype(np.int64).tolist()}

    def _quantile(self, q: float, low: float, high: float) -> float:
        value = float(kernels.quantile(self._buckets, q))
        return min(max(value, low), high)


def profile_table(table: pa.Table) -> dict[str, dict[str, Any]]:
    """The profile of every column of a table."""
    found = {}
    for name in table.column_names:
        column = ColumnProfile()
        for chunk in table[name].chunks:
            column.add(chunk)
        found[name] = column.result()
    return found
