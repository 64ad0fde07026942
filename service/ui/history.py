"""What the pages draw over time: clocks of views and counts of features, of the last two hours.

In memory and of this process: it begins when the process does, and the pages say so. What must
outlive it is in Prometheus (docs/monitoring.md).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from headwater.catalog import Catalog
from headwater.quality.freshness import STAGES
from service.metrics import REASONS, Metrics
from service.observed import LOOK_SECONDS, Observed

#: Time between two looks, and how many are kept.
EVERY_SECONDS = 10.0
POINTS = 720

Counts = NDArray[np.int64]


class History:
    """Rings of POINTS looks; `take` adds one. Times are seconds since 1970."""

    def __init__(self, metrics: Metrics, observed: Observed) -> None:
        self._metrics, self._observed = metrics, observed
        self._taken = 0
        self._times = np.zeros(POINTS, np.float64)
        self._clocks: dict[str, Counts] = {}
        self._served: dict[tuple[str, str], NDArray[np.uint32]] = {}
        self._before: Mapping[tuple[str, str], Counts] = metrics.served()
        self.started = time.time()

    def take(self, catalog: Catalog, now: float) -> None:
        """Look at the clocks as they were last read, and at what was served since the last look."""
        at = self._taken % POINTS
        for view in catalog.views:
            ring = self._clocks.get(view)
            if ring is None:
                ring = self._clocks[view] = np.zeros((POINTS, len(STAGES)), np.int64)
            ring[at] = [self._observed.clocks.get((stage, view), 0) for stage in STAGES]
        served = self._metrics.served()
        for feature, counts in served.items():
            ring32 = self._served.get(feature)
            if ring32 is None:
                ring32 = self._served[feature] = np.zeros((POINTS, len(counts)), np.uint32)
            ring32[at] = np.maximum(counts - self._before.get(feature, 0), 0)
        self._times[at] = now
        self._before = served
        self._taken += 1

    async def keep_taking(self, catalog: Callable[[], Catalog]) -> None:
        await asyncio.sleep(LOOK_SECONDS)  # the clocks are read first
        while True:
            await asyncio.to_thread(self.take, catalog(), time.time())
            await asyncio.sleep(EVERY_SECONDS)

    def _order(self) -> NDArray[np.int64]:
        """The places of the looks, the oldest first."""
        return np.arange(max(0, self._taken - POINTS), self._taken) % POINTS

    def clocks(self, view: str) -> tuple[NDArray[np.float64], Counts]:
        """Times [n] and the view's clocks in microseconds [n, STAGES], 0 for none."""
        order = self._order()
        ring = self._clocks.get(view)
        return self._times[order], (
            np.zeros((len(order), len(STAGES)), np.int64) if ring is None else ring[order]
        )

    def served(self, view: str, feature: str) -> tuple[NDArray[np.float64], Counts]:
        """Times [n], and what was served up to each since the one before, as `Metrics.served`."""
        order = self._order()
        ring = self._served.get((view, feature))
        return self._times[order], (
            np.zeros((len(order), 1 + len(REASONS)), np.int64)
            if ring is None
            else ring[order].astype(np.int64)
        )
