"""Holds what is served to the views' objectives: past them it is served, nulled or refused."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from headwater.errors import HeadwaterError
from headwater.online.columns import OUTSIDE_MAX_AGE, PRESENT, UInt8, ViewColumns
from headwater.online.replace import values_of, with_defaults, with_nulls
from headwater.quality.budgets import BUDGET_TAGS, Budget, budgets
from service.found import Replaced
from service.metrics import STALE, Metrics
from service.requests import FeaturePlan

Bool = NDArray[np.bool_]


class PastObjectiveError(HeadwaterError):
    """The definitions refuse to serve what is past its objective; `view` is at fault."""

    def __init__(self, view: str, what: str, budget: Budget) -> None:
        objective = BUDGET_TAGS[budget.tag]
        super().__init__(
            f"refused, since {what}, and {objective} allows {budget.limit_us / 1e6:g} s "
            f"(tag {budget.tag}=refuse of feature view {view!r}); try again when it is fresh"
        )
        self.view = view


class Clocks:
    """Event time of the newest event of each view that can be served; None before the first look.

    A view that is not in it was never loaded.
    """

    online: Mapping[str, int] | None = None

    def show(self, clocks: Mapping[tuple[str, str], int]) -> None:
        """Take over what Redis holds: (stage, view) -> event time."""
        self.online = {view: at for (stage, view), at in clocks.items() if stage == "online"}

    def age_us(self, view: str, now_us: int) -> float:
        """Infinite where the view was never loaded; 0 where nothing is known yet."""
        if self.online is None:
            return 0.0
        at = self.online.get(view)
        return float("inf") if at is None else now_us - at


class _Held(NamedTuple):
    """A read whose view has budgets."""

    at: int
    view: str
    features: tuple[str, ...]
    budgets: list[Budget]


class Budgets:
    """The budgets of the views that one plan reads; false where there are none."""

    def __init__(self, plan: FeaturePlan, metrics: Metrics, clocks: Clocks) -> None:
        self._clocks, self._metrics = clocks, metrics
        reads = [
            _Held(i, read.reader.view.name, read.features, budgets(read.reader.view))
            for i, read in enumerate(plan.reads)
        ]
        self._held = [read for read in reads if read.budgets]
        self._view_wide = [
            (read.view, b.limit_us)
            for read in reads for b in read.budgets if b.tag == "past_freshness"
        ]  # fmt: skip

    def __bool__(self) -> bool:
        return bool(self._held)

    def any_view_past(self, now_us: int) -> bool:
        """Whether some view's newest event is too old."""
        return any(self._clocks.age_us(v, now_us) > limit for v, limit in self._view_wide)

    def oldest_us(self, at: int) -> int:
        """The age above which values of a read are past an objective; 0 where none is."""
        mine = [b for read in self._held if read.at == at for b in read.budgets]
        return min((b.limit_us for b in mine if b.tag == "past_served_age"), default=0)

    def hold(
        self, columns: Sequence[ViewColumns], now_us: int
    ) -> tuple[list[ViewColumns], dict[int, Replaced]]:
        """The columns as they are to be served, and what was replaced, by read.

        Raises PastObjectiveError.
        """
        served, replaced = list(columns), dict[int, Replaced]()
        for read in self._held:
            found, rows = self._hold(read, columns[read.at], now_us)
            if rows is not None:
                served[read.at] = found
                replaced[read.at] = Replaced(rows, _counted(columns[read.at], found))
        return served, replaced

    def _hold(
        self, read: _Held, before: ViewColumns, now_us: int
    ) -> tuple[ViewColumns, Bool | None]:
        found = before
        rows: Bool | None = None
        for budget in read.budgets:
            past, what = self._past(read.view, budget, before, now_us)
            which = values_of(before, past)
            if not which.any():
                continue
            objective = BUDGET_TAGS[budget.tag]
            count = self._metrics.past_objective.labels(read.view, objective, budget.action)
            count.inc(int(np.count_nonzero(which)))
            if budget.action == "refuse":
                raise PastObjectiveError(read.view, what, budget)
            if budget.action == "serve":
                continue
            if budget.action == "null":
                found = with_nulls(found, which)
            else:
                found = with_defaults(found, which, [budget.defaults[f] for f in read.features])
            mine: Bool = np.asarray(which.any(0))
            rows = mine if rows is None else rows | mine
        return found, rows

    def _past(
        self, view: str, budget: Budget, columns: ViewColumns, now_us: int
    ) -> tuple[Bool, str]:
        """The entities [n] whose values are past an objective, and what is so, in words."""
        times = np.asarray(columns.event_us, np.int64)
        if budget.tag == "past_freshness":
            age = self._clocks.age_us(view, now_us)
            state = "was never loaded" if math.isinf(age) else (
                f"has no newer event than one of {age / 1e6:.0f} s ago"
            )  # fmt: skip
            return np.full(len(times), age > budget.limit_us), f"feature view {view!r} {state}"
        past = (times != 0) & (times < now_us - budget.limit_us)
        age = now_us - int(times.min(where=past, initial=now_us))
        return past, f"a value of feature view {view!r} is {age / 1e6:.0f} s old"


def _counted(before: ViewColumns, after: ViewColumns) -> UInt8 | None:
    """The statuses as the metrics count them: what was nulled here is STALE."""
    if after.status is None:
        return None
    held = np.zeros(after.status.shape, np.uint8) if before.status is None else before.status
    stale = np.where(held == PRESENT, np.uint8(STALE), held)
    counted: UInt8 = np.where(after.status == OUTSIDE_MAX_AGE, stale, after.status)
    return counted
