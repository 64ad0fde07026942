"""What a windowed feature is, slow and obvious: every event kept, every window looked through."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from headwater.catalog import AggregationPlan

#: An event of one entity: (event time, sequence, value of the aggregated column).
Timed = tuple[int, int, Any]


def oracle(a: AggregationPlan, events: Sequence[Timed], t: int) -> Any:
    """The value at t of one entity's events, from the definition alone."""
    return value(a, in_window(a.window_us, a.hop_us, events, t))


def in_window(window_us: int | None, hop_us: int, events: Sequence[Timed], t: int) -> list[Any]:
    """Values, not null, of the events in [floor_hop(t - window), t], by (event time, sequence)."""
    low = -math.inf if window_us is None else (t - window_us) // hop_us * hop_us
    return [v for _, _, v in sorted(e for e in events if low <= e[0] <= t and e[2] is not None)]


def value(a: AggregationPlan, values: list[Any]) -> Any:
    """The aggregation of a window's values."""
    if a.function == "count":
        return len(values)
    if a.function == "count_distinct":
        return len(set(values))
    if not values or (a.function in {"std", "var"} and len(values) < 2):
        return None
    whole = a.column_type in {"INT32", "INT64"}
    n = int(a.parameter)
    return {
        "sum": lambda: sum(values) if whole else math.fsum(values),
        "mean": lambda: math.fsum(values) / len(values),
        "min": lambda: min(values),
        "max": lambda: max(values),
        "std": lambda: statistics.stdev(values),
        "var": lambda: statistics.variance(values),
        "first": lambda: values[0],
        "last": lambda: values[-1],
        "quantile": lambda: sorted(values)[math.floor(a.parameter * (len(values) - 1))],
        "last_n": lambda: values[-n:],
        "first_n": lambda: values[:n],
    }[a.function]()


def agrees(a: AggregationPlan, found: Any, wanted: Any) -> bool:
    """Equal; floating sums to 1e-9, quantiles to the documented 1 %."""
    if wanted is None or found is None or a.function in {"count", "first", "last", "min", "max"}:
        return bool(found == wanted)
    if a.function == "quantile":
        return math.isclose(found, wanted, rel_tol=0.0101, abs_tol=1e-12)
    if isinstance(found, float):
        return math.isclose(found, wanted, rel_tol=1e-9, abs_tol=1e-6)
    return bool(found == wanted)
