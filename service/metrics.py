"""The service's metrics; every name is here, with its meaning."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from headwater import read_kernels
from headwater.catalog import Catalog
from headwater.online.columns import STATUS_NAMES, ViewColumns

PREFIX = "featurestore_"
REASONS = {"NOT_FOUND": "absent", "NULL_VALUE": "null", "OUTSIDE_MAX_AGE": "expired"}


_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)
_ENTITIES = (1, 2, 5, 10, 50, 100, 500, 1000, 10000)
_AGES = (1, 10, 60, 300, 900, 3600, 21600, 86400, 604800, 2592000)


class Pending:
    """Observations of a histogram, kept as plain numbers until someone looks at it.

    prometheus_client takes a lock for every observation, which costs as much as a small read.
    """

    def __init__(self, histogram: Any, bounds: Sequence[float]) -> None:
        self._histogram, self._bounds = histogram, list(bounds)
        self._edges = np.array(bounds, np.float64)
        self._counts, self._sum = [0] * (len(bounds) + 1), 0.0
        self._ages = np.zeros(len(bounds) + 1, np.int64)

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def observe_ages(self, event_us: NDArray[np.int64], now_us: int) -> None:
        """The ages in seconds of event times; 0 is none."""
        self._sum += read_kernels.count_ages(event_us, now_us, self._edges, self._ages)

    def flush(self) -> None:
        counts = [a + b for a, b in zip(self._counts, self._ages.tolist(), strict=True)]
        total = self._sum
        self._counts, self._sum = [0] * len(counts), 0.0
        self._ages[:] = 0
        # A bucket's own count; the client sums them up when it writes them.
        for bucket, count in zip(self._histogram._buckets, counts, strict=True):
            if count:
                bucket.inc(count)
        if total:
            self._histogram._sum.inc(total)


class Tally:
    """What requests for some features of one view have returned since the last look."""

    def __init__(self, metrics: Metrics, view: str, features: Sequence[str]) -> None:
        self._view, self._features = view, features
        self._entities = 0
        self._nulls = np.zeros((len(features), len(STATUS_NAMES)), np.int64)
        self._ages = Pending(metrics.age.labels(view), _AGES)
        metrics.tallies.append(self)

    def one(self, event_us: int, now_us: int) -> None:
        """One entity, all of it PRESENT."""
        self._entities += 1
        self._ages.observe(max(0.0, (now_us - event_us) / 1e6))

    def count(self, columns: ViewColumns, n: int, now_us: int) -> None:
        self._entities += n
        if columns.status is not None:
            read_kernels.count_statuses(columns.status, self._nulls)
        if n == 1:
            event_us = columns.event_us[0]
            if event_us:
                self._ages.observe(max(0.0, (now_us - event_us) / 1e6))
            return
        times = np.ascontiguousarray(columns.event_us, np.int64)
        self._ages.observe_ages(times, now_us)

    def flush(self, metrics: Metrics) -> None:
        entities, self._entities = self._entities, 0
        nulls = self._nulls.tolist()
        self._nulls[:] = 0
        self._ages.flush()
        if not entities:
            return
        for feature, counts in zip(self._features, nulls, strict=True):
            metrics.values.labels(self._view, feature).inc(entities)
            for code, count in enumerate(counts):
                if count and code:
                    reason = REASONS[STATUS_NAMES[code]]
                    metrics.nulls.labels(self._view, feature, reason).inc(count)


class Metrics:
    """One registry for one process."""

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        self.tallies: list[Tally] = []
        self.seconds = Histogram(
            PREFIX + "request_duration_seconds", "Time of a request",
            ["route", "method", "status"], registry=r,
            buckets=_SECONDS,
        )  # fmt: skip
        self._answered: dict[str, Pending] = {}
        entities = Histogram(
            PREFIX + "online_entities_per_request", "Entities in a request",
            registry=r, buckets=_ENTITIES,
        )  # fmt: skip
        self.entities = Pending(entities, _ENTITIES)
        self.values = Counter(
            PREFIX + "online_values", "Values returned", ["feature_view", "feature"], registry=r
        )
        self.nulls = Counter(
            PREFIX + "online_nulls",
            "Values returned as null, by reason (absent, null, expired)",
            ["feature_view", "feature", "reason"],
            registry=r,
        )
        self.age = Histogram(
            PREFIX + "served_value_age_seconds", "Age of a row when served, by its event time",
            ["feature_view"], registry=r,
            buckets=_AGES,
        )  # fmt: skip
        self.store_errors = Counter(
            PREFIX + "store_errors", "Failed calls to a store", ["store", "op", "kind"], registry=r
        )
        self.store_errors.labels("redis", "request", "unavailable")
        store_seconds = Histogram(
            PREFIX + "store_operation_duration_seconds", "Time that a store took for an operation",
            ["store", "op"], registry=r, buckets=_SECONDS,
        )  # fmt: skip
        self.read_seconds = Pending(store_seconds.labels("redis", "read"), _SECONDS)
        self.in_flight = Gauge(
            PREFIX + "requests_in_flight", "Requests under way", ["route"], registry=r
        )

        self.logged = Counter(
            PREFIX + "logged_vectors",
            "Vectors for the feature log: written, dropped (the queue was full), failed",
            ["outcome"],
            registry=r,
        )
        for outcome in ("written", "dropped", "failed"):
            self.logged.labels(outcome)

    def declare(self, catalog: Catalog) -> None:
        """Create every series of the catalogue at 0."""
        for view in catalog.views.values():
            for field in view.features:
                self.values.labels(view.name, field.name)
                for reason in REASONS.values():
                    self.nulls.labels(view.name, field.name, reason)

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request for vectors."""
        if status != 200:
            self.seconds.labels(route, method, f"{status // 100}xx").observe(seconds)
            return
        pending = self._answered.get(route)
        if pending is None:
            pending = Pending(self.seconds.labels(route, method, "2xx"), _SECONDS)
            self._answered[route] = pending
        pending.observe(seconds)

    def text(self) -> bytes:
        """Prometheus text of everything, what requests have counted included."""
        self.flush()
        return generate_latest(self.registry)

    def flush(self) -> None:
        """Move what requests have counted since the last time into the series."""
        for tally in self.tallies:
            tally.flush(self)
        self.entities.flush()
        for pending in self._answered.values():
            pending.flush()
        self.read_seconds.flush()
