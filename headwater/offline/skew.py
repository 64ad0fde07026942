"""How far served values were from the final ones: what lateness and lag do to a model.

The training set knows every event that had happened by a request's time, the service those that had
arrived and were applied. The same vectors by both show the difference, which is no fault.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from headwater.catalog import Catalog
from headwater.offline.compare import About, equal
from headwater.offline.feature_log import LoggedRead, Part, replaced_column, titled
from headwater.offline.point_in_time import Labels, Past, features_at
from headwater.offline.spec import AsOf
from headwater.windows import Bool

#: The value was final for what had arrived by then, and had changed since.
LATE = "late event"
#: What had arrived by then was not all in the state that was served.
LAG = "ingestion lag"
#: The row's event time lay ahead of the request's time.
AHEAD = "event time ahead of the clock"
#: Something else was served than what was held.
REPLACED = "past its objective"
ABOUT: dict[str, About] = {"sum": "sum", "mean": "sum", "var": "sum", "std": "root"}


@dataclass
class Skew:
    """A feature's served values against a training set's by event time at the same times."""

    values: int = 0
    differ: int = 0
    causes: Counter[str] = field(default_factory=Counter)
    #: Of numbers that differ: how many pairs there are, how far apart in all and at most.
    numbers: int = 0
    apart: float = 0.0
    most: float = 0.0

    @property
    def mean_apart(self) -> float:
        return self.apart / self.numbers if self.numbers else 0.0

    def as_json(self) -> dict[str, Any]:
        return {
            "values": self.values, "differ": self.differ, "causes": dict(self.causes),
            "ratio": self.differ / self.values if self.values else 0.0,
            "mean_difference": self.mean_apart, "max_difference": self.most,
        }  # fmt: skip


def add_skew(
    catalog: Catalog, part: Part, read: LoggedRead, found: dict[tuple[str, str], Skew]
) -> None:
    """Add one view's features of a part of the log to what was found of others."""
    view = catalog.views[read.view]
    if not view.stream and view.batch is None:
        return
    labels = Labels(part.table, part.times())
    columns = {k.name: c for k, c in zip(view.join_keys, read.columns, strict=True)}

    def as_of(what: AsOf) -> dict[str, pa.Array]:
        return dict(features_at(catalog, view, labels, columns, read.features, Past(what)))

    final, arrived = as_of("event"), as_of("arrival")
    functions = {a.name: a.function for a in view.aggregations}
    for feature, title in titled(read).items():
        about = ABOUT.get(functions.get(feature, ""), "")
        served = part.table[title].combine_chunks()
        same = equal(served, final[feature], about, lambda: None)
        entry = found.setdefault((read.alias, feature), Skew())
        entry.values += len(same)
        entry.differ += int((~same).sum())
        if not same.all():
            late = ~equal(arrived[feature], final[feature], about, lambda: None)
            _count(entry, same, _replaced(part, read), late, _ahead(part, title))
            _measure(entry, served, final[feature], ~same)


def _ahead(part: Part, title: str) -> Bool:
    times = part.table[f"{title}__timestamp"].cast(pa.int64()).fill_null(0).to_numpy()
    ahead: Bool = times > part.times()
    return ahead


def _replaced(part: Part, read: LoggedRead) -> Bool:
    """The vectors that got a null or a default, as the view's tag says."""
    name = replaced_column(read)
    if name not in part.table.column_names:
        return np.zeros(part.table.num_rows, np.bool_)
    replaced: Bool = part.table[name].to_numpy()
    return replaced


def _count(entry: Skew, same: Bool, replaced: Bool, late: Bool, ahead: Bool) -> None:
    """Each difference has the first cause that holds."""
    rest = ~same
    for which, cause in ((replaced, REPLACED), (late, LATE), (ahead, AHEAD), (rest, LAG)):
        if n := int((rest & which).sum()):
            entry.causes[cause] += n
        rest = rest & ~which


def _measure(entry: Skew, served: pa.Array, final: pa.Array, differ: Bool) -> None:
    if not (pa.types.is_floating(served.type) or pa.types.is_integer(served.type)):
        return
    both = differ & np.asarray(served.is_valid()) & np.asarray(final.is_valid())
    a, b = (
        x.cast(pa.float64(), safe=False).fill_null(0).to_numpy(zero_copy_only=False)[both]
        for x in (served, final)
    )
    apart = np.abs(a - b)
    apart = apart[np.isfinite(apart)]
    entry.numbers += len(apart)
    entry.apart += float(apart.sum())
    entry.most = max(entry.most, float(apart.max(initial=0.0)))
