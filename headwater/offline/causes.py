"""Why a served value differs from the recomputed one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa

from headwater.catalog import Catalog, ViewPlan
from headwater.errors import HeadwaterError
from headwater.offline.compare import About, equal
from headwater.offline.feature_log import LoggedRead
from headwater.offline.files import written_us
from headwater.offline.recompute import Recompute, Values
from headwater.online.columns import OUTSIDE_MAX_AGE
from headwater.windows import Bool, Int64

LOST, DOUBLED = "lost write", "doubled write"
EXPIRED = "expired TTL"
DEFINITION = "changed definition"
SOURCE = "changed source"
BUG = "a bug of ours"


class Causes:
    """Finds the causes of one view's differences by computing it in other ways."""

    def __init__(self, others: Sequence[Catalog], recompute: Recompute, made: Values) -> None:
        """others: catalogues in which the view may mean something else, with its code."""
        self._others, self._recompute, self._made = others, recompute, made

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

        def settle_like(others: Sequence[Values], cause: str) -> None:
            for values in others:
                if feature in values.values:
                    same = equal(served, values.values[feature], about, lambda: None)
                    settle(same[rows] & (codes[rows] == values.statuses[feature][rows]), cause)

        past = OUTSIDE_MAX_AGE
        settle((codes[rows] == past) != (self._made.statuses[feature][rows] == past), EXPIRED)
        if open_.any():
            settle_like(self._behind, LOST)
        if open_.any():
            settle_like(self._redefined, DEFINITION)
        if open_.any() and self._recompute.view.udf is not None:
            settle(self._recompute.unsettled[rows], DEFINITION)
        if open_.any():
            more = self._more[rows]
            settle(more > 0, DOUBLED)
            settle(more < 0, LOST)
        if open_.any() and self._recompute.view.batch is not None:
            settle(self._recompute.t[rows] < self._source_written_us, SOURCE)
        return [str(cause) for cause in found]

    @cached_property
    def _behind(self) -> list[Values]:
        """As of the provenance alone: what the state should have held besides is left out."""
        return [self._recompute.values(whole=False)] if self._recompute.view.stream else []

    @cached_property
    def _redefined(self) -> list[Values]:
        """By the view's other definitions: today's, and those that vectors were served by before.

        Rows stay where they are when their view changes, until they are made again.
        """
        read, part = self._recompute.read, self._recompute.part
        kind, meanings = self._recompute.view.kind, [_meaning(self._recompute.view)]
        found = []
        for catalog in self._others:
            view = catalog.views.get(read.view)
            if view is None or view.kind != kind or _meaning(view) in meanings:
                continue
            meanings.append(_meaning(view))
            known = set(view.feature_names)
            kept = tuple(f for f in read.features if f in known)
            try:
                common = LoggedRead(read.view, read.alias, kept, read.columns)
                found.append(Recompute(catalog, part, common).values())
            except HeadwaterError:
                continue
        return found

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

    @cached_property
    def _source_written_us(self) -> int:
        """When the files of a batch view's source were last written; 0 where that is not known."""
        view = self._recompute.view
        if view.stream or view.batch is None or view.batch.format == "query":
            return 0
        return written_us(view.batch.path, view.batch.s3_endpoint)


def _meaning(view: ViewPlan) -> tuple[object, ...]:
    text = (view.udf.text or view.udf.name) if view.udf else ""
    return (
        view.schema_fingerprint, view.aggregations, view.join_keys, view.ttl_us, view.stream,
        view.batch, text,
    )  # fmt: skip
