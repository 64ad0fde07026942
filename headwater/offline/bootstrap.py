"""Features that were logged when they were served, as the values of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from headwater import label_kernels as kernels
from headwater.arrow import TIMESTAMP
from headwater.catalog import BatchSourcePlan
from headwater.errors import HeadwaterError
from headwater.offline.files import open_source
from headwater.offline.keys import LabelKeys
from headwater.offline.point_in_time import Labels
from headwater.offline.sources import normalised
from headwater.windows import Bool, Int64

#: Feast's name for when a vector was served.
LOG_TIME = "__log_timestamp"


@dataclass(frozen=True)
class Logged:
    """Logged values of one view: `found` [labels] says for which labels all of them are there."""

    found: Bool
    rows: Int64
    columns: dict[str, pa.ChunkedArray]

    def fill(self, name: str, computed: pa.Array, missing: Int64) -> pa.Array:
        """The logged values, and the computed ones at the labels `missing`."""
        logged = self.columns[name]
        if logged.type != computed.type:
            logged = logged.cast(computed.type)
        both = pa.chunked_array([*logged.chunks, computed])
        at = self.rows.copy()
        at[missing] = len(logged) + np.arange(len(missing))
        return both.take(pa.array(at)).combine_chunks()


def logged_features(
    path: str, view: str, names: Sequence[str], labels: Labels, keys: Sequence[str]
) -> Logged:
    """Vectors in a feature log (Feast's columns) that were served at exactly a label's time.

    A label is a logged request where the log has its keys and its time as `__log_timestamp`.
    Raises HeadwaterError where there is no such log.
    """
    data = open_source(BatchSourcePlan("the feature log", "parquet", path, LOG_TIME))
    columns = {name: f"{view}__{name}" for name in names}
    none = Logged(np.zeros(len(labels), np.bool_), np.zeros(len(labels), np.int64), {})
    missing = [c for c in [LOG_TIME, *keys] if c not in data.schema.names]
    if missing:
        raise HeadwaterError(
            f"the feature log {path} lacks {missing}; it has {sorted(data.schema.names)}"
        )
    if not set(columns.values()) <= set(data.schema.names):
        # A view that was not served is computed as a whole.
        kinds = {name: pa.chunked_array([pa.nulls(0)]) for name in names}
        return Logged(none.found, none.rows, kinds)
    table = normalised(data.to_table([*keys, LOG_TIME, *columns.values()]))
    known = [labels.table[key].cast(table[key].type) for key in keys]
    numbers = LabelKeys(
        [*known, pa.chunked_array([pa.array(labels.times, TIMESTAMP)])], len(labels)
    )
    codes = numbers.of(
        [c.combine_chunks() for c in [*(table[k] for k in keys), table[LOG_TIME]]], table.num_rows
    )
    served = np.full(max(numbers.count, 1), -1, np.int64)
    empty: Any = np.zeros(0, np.int64)
    kernels.newest_of_each(codes, np.arange(len(codes)), empty, empty, served)
    rows = np.where(numbers.codes >= 0, served[np.maximum(numbers.codes, 0)], -1)
    return Logged(rows >= 0, np.maximum(rows, 0), {n: table[c] for n, c in columns.items()})
