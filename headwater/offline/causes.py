"""Why a served value differs from the recomputed one."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pyarrow as pa

from headwater.catalog import Catalog, ViewPlan
from headwater.errors import HeadwaterError
from headwater.offline.compare import About, equal
from headwater.offline.recompute import Recompute, Values
from headwater.online.columns import OUTSIDE_MAX_AGE
from headwater.windows import Bool, Int64

LOST, DOUBLED = "lost write", "doubled write"
EXPIRED = "expired TTL"
DEFINITION = "changed definition"
BUG = "a bug of ours"


class Causes:
    """Finds the causes of one view's differences by computing it in other ways."""

    def __init__(self, now: Catalog, recompute: Recompute, made: Values) -> None:
        self._now, self._recompute, self._made = now, recompute, made

    def of(
        self, feature: str, served: pa.Array, codes: Int64, rows: Int64, about: About
    ) -> list[str]:
        """The cause of each difference [rows]."""
        found = np.full(len(rows), BUG, object)
        open_: Bool = np.ones(len(rows), np.bool_)

        def settle(which: Bool, cause: str) -> None:
            nonlocal open_
            found[open_ & which] = cause
            open_ = open_ & ~which

        past = OUTSIDE_MAX_AGE
        settle((codes[rows] == past) != (self._made.statuses[feature][rows] == past), EXPIRED)
        for values, cause in ((self._behind, LOST), (self._redefined, DEFINITION)):
            if open_.any() and values is not None and feature in values.values:
                array = values.values[feature]
                same = equal(served, array, about, lambda: None)
                settle(same[rows] & (codes[rows] == values.statuses[feature][rows]), cause)
        if open_.any():
            more = self._more[rows]
            settle(more > 0, DOUBLED)
            settle(more < 0, LOST)
        return [str(cause) for cause in found]

    @cached_property
    def _behind(self) -> Values | None:
        """As of the provenance alone: what the state should have held besides is left out."""
        return self._recompute.values(whole=False) if self._recompute.view.stream else None

    @cached_property
    def _redefined(self) -> Values | None:
        """By today's definition of the view, where it is another one."""
        now = self._now.views.get(self._recompute.view.name)
        if now is None or _meaning(now) == _meaning(self._recompute.view):
            return None
        known = set(now.feature_names)
        read = self._recompute.read
        kept = tuple(f for f in read.features if f in known)
        reads = type(read)(read.view, read.alias, kept, read.columns)
        try:
            return Recompute(self._now, self._recompute.part, reads).values()
        except HeadwaterError:
            return None

    @cached_property
    def _more(self) -> Int64:
        """Whether a vector's counts say that its state held more events than the log, or fewer."""
        table, view = self._recompute.part.table, self._recompute.view
        apart = np.zeros(self._recompute.n, np.int64)
        for a in view.aggregations:
            if a.function == "count" and a.name in self._made.values:
                served = table[f"{self._recompute.read.alias}__{a.name}"].fill_null(0).to_numpy()
                made = self._made.values[a.name].fill_null(0).to_numpy()
                apart = np.where(apart == 0, np.sign(served - made), apart)
        return apart


def _meaning(view: ViewPlan) -> tuple[object, ...]:
    text = view.udf.text if view.udf else ""
    return (view.features, view.aggregations, view.join_keys, view.ttl_us, view.stream, text)
