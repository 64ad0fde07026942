"""Windows: events folded and read a second; label times are in `bench_offline.py`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from headwater.catalog import AggregationPlan
from headwater.windows import Column, EventBatch, WindowProgram, source_id

HOUR = 3_600_000_000
PLANS = [
    AggregationPlan(f"{f}_{h}h", "x", f, h * HOUR, 60_000_000 if h == 1 else HOUR // 4, 0.0,
                    "DOUBLE", "INT64" if f == "count" else "DOUBLE")
    for f in ("count", "sum", "max") for h in (1, 24)
]  # fmt: skip
EVENTS, KEYS = 500_000, 10_000


def median_seconds(run: Callable[[], object], times: int = 3) -> float:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def main() -> None:
    chance = np.random.default_rng(1)
    ts = np.sort(chance.integers(0, 72 * HOUR, EVENTS)) + 1_700_000_000_000_000
    key = chance.integers(0, KEYS, EVENTS)
    x = chance.normal(size=EVENTS)
    source = np.full(EVENTS, source_id("t", 0))
    batch = EventBatch(key, ts, np.arange(EVENTS), source, ts,
                       {"x": Column(x, np.ones(EVENTS, np.bool_))})  # fmt: skip
    program = WindowProgram(PLANS)
    states = program.fold([None] * KEYS, batch, int(ts[-1]))
    seconds = median_seconds(lambda: program.fold([None] * KEYS, batch, int(ts[-1])))
    print(f"fold: {EVENTS / seconds:,.0f} events/s, {KEYS:,} keys, 6 aggregations")
    hundred = [[state] for state in states[:100]]
    seconds = median_seconds(lambda: [program.read(hundred, int(ts[-1])) for _ in range(50)]) / 50
    print(f"read: {seconds * 1e6:,.0f} us for 100 entities x 6 windowed features")


if __name__ == "__main__":
    main()
