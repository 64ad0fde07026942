"""Whether a view's rows come as they used to: each hour against its like in the past. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from statistics import NormalDist, mean

from headwater.quality.drift import Check
from headwater.quality.feature_sketches import HOUR_US

#: How often the hours of a span may be below their noise by chance.
ALPHA = 1e-4
#: The share of an hour's rows that may be missing.
MISSING = 0.3
#: Hours of the past that an hour is held against, at least.
LEAST_HOURS = 3
DAY_HOURS, WEEK_HOURS = 24, 168


class Past:
    """The rows of past hours (microseconds -> rows), from the first that has any up to `until_us`.

    An hour is like those of the same hour of the week, where there are enough of them, else of the
    day. Its variance is that of all hours about their means, at least Poisson's (quasi-Poisson:
    McCullagh, Nelder 1989, chapter 6).
    """

    def __init__(self, hours: Mapping[int, int], until_us: int) -> None:
        numbers = [at // HOUR_US for at in hours]
        last = until_us // HOUR_US
        self._groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for hour in range(min(numbers, default=last), last):
            rows = hours.get(hour * HOUR_US, 0)
            for cycle in (WEEK_HOURS, DAY_HOURS):
                self._groups[cycle, hour % cycle].append(rows)
        self._dispersion = {cycle: self._of_cycle(cycle) for cycle in (WEEK_HOURS, DAY_HOURS)}

    def alike(self, hour_us: int) -> tuple[list[int], float]:
        """The rows of past hours that were like this one, none where they are too few, and by how
        much their variance exceeds Poisson's."""
        hour = hour_us // HOUR_US
        for cycle in (WEEK_HOURS, DAY_HOURS):
            found = self._groups.get((cycle, hour % cycle), [])
            if len(found) >= LEAST_HOURS:
                return found, self._dispersion[cycle]
        return [], 1.0

    def _of_cycle(self, cycle: int) -> float:
        squares, degrees = 0.0, 0
        for (of, _), rows in self._groups.items():
            middle = mean(rows)
            if of == cycle and middle > 0:
                squares += sum((n - middle) ** 2 for n in rows) / middle
                degrees += len(rows) - 1
        return max(1.0, squares / degrees) if degrees else 1.0


def volume(
    past: Mapping[int, int], current: Mapping[int, int], from_us: int, until_us: int
) -> list[Check]:
    """Checks of the whole hours in [from_us, until_us): the worst of those without any rows, and
    the worst of the others. Empty where the past says too little.
    """
    hours = range(-(-from_us // HOUR_US) * HOUR_US, until_us - HOUR_US + 1, HOUR_US)
    held = Past(past, from_us)
    worst: dict[str, Check] = {}
    for hour in hours:
        alike, dispersion = held.alike(hour)
        expected = mean(alike) if alike else 0.0
        if not expected:
            continue
        rows = current.get(hour, 0)
        z = NormalDist().inv_cdf(1 - ALPHA / len(hours))
        found = Check(
            "", "partial_data" if rows else "source_dropped", 1 - rows / expected, MISSING,
            z * math.sqrt(dispersion * (1 + 1 / len(alike)) / expected),
            f"{rows:,} rows in the hour from {_utc(hour)}, {expected:,.0f} expected",
        )  # fmt: skip
        before = worst.get(found.check)
        if before is None or found.score - found.limit > before.score - before.limit:
            worst[found.check] = found
    return list(worst.values())


def _utc(us: int) -> str:
    return datetime.fromtimestamp(us / 1e6, UTC).isoformat(sep=" ")[:16]
