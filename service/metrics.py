"""The service's metrics; every name is here, with its meaning."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from headwater.catalog import Catalog
from headwater.online.values import NOT_FOUND, NULL_VALUE, OUTSIDE_MAX_AGE, ViewValues
from headwater.quality.freshness import parse_duration
from service.requests import ViewRead

PREFIX = "featurestore_"
REASONS = {NOT_FOUND: "absent", NULL_VALUE: "null", OUTSIDE_MAX_AGE: "expired"}


class Metrics:
    """One registry for one process."""

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        self.seconds = Histogram(
            PREFIX + "request_duration_seconds", "Time of a request",
            ["route", "method", "status"], registry=r,
            buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5),
        )  # fmt: skip
        self.entities = Histogram(
            PREFIX + "online_entities_per_request", "Entities in a request",
            registry=r, buckets=(1, 2, 5, 10, 50, 100, 500, 1000, 10000),
        )  # fmt: skip
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
            buckets=(1, 10, 60, 300, 900, 3600, 21600, 86400, 604800, 2592000),
        )  # fmt: skip
        self.last_event = Gauge(
            PREFIX + "last_event_timestamp_seconds",
            "Event time of the newest event that a stage has seen",
            ["feature_view", "stage"],
            registry=r,
        )
        self.slo = Gauge(
            PREFIX + "freshness_slo_seconds",
            "The freshness objective of a view (tag freshness_slo)",
            ["feature_view"],
            registry=r,
        )
        self.null_limit = Gauge(
            PREFIX + "feature_null_ratio_limit",
            "The objective for a feature's null ratio (tag max_null_ratio)",
            ["feature_view", "feature"],
            registry=r,
        )
        self.store_errors = Counter(
            PREFIX + "store_errors", "Failed calls to a store", ["store", "op"], registry=r
        )

    def declare(self, catalog: Catalog) -> None:
        """Create every series of the catalogue at 0 and set the objectives."""
        for view in catalog.views.values():
            seconds = parse_duration(view.tags.get("freshness_slo", ""))
            if seconds:
                self.slo.labels(view.name).set(seconds)
            for field in view.features:
                self.values.labels(view.name, field.name)
                for reason in REASONS.values():
                    self.nulls.labels(view.name, field.name, reason)
                limit = field.tags.get("max_null_ratio", view.tags.get("max_null_ratio"))
                if limit:
                    self.null_limit.labels(view.name, field.name).set(float(limit))

    def served(self, reads: Sequence[tuple[ViewRead, ViewValues]], n: int) -> None:
        """Count what one request read: values, nulls by reason, ages."""
        now = time.time()
        self.entities.observe(n)
        for read, found in reads:
            view = read.reader.view.name
            for at, feature in enumerate(read.features):
                self.values.labels(view, feature).inc(n)
                statuses = found.statuses[at]
                if statuses.count("PRESENT") < n:
                    for status, reason in REASONS.items():
                        count = statuses.count(status)
                        if count:
                            self.nulls.labels(view, feature, reason).inc(count)
            age = self.age.labels(view)
            for event_us in found.event_us:
                if event_us:
                    age.observe(max(0.0, now - event_us / 1e6))

    def show_clocks(self, clocks: Mapping[tuple[str, str], int]) -> None:
        for (stage, view), event_us in clocks.items():
            self.last_event.labels(view, stage).set(event_us / 1e6)
