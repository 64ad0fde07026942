"""The worker's metrics; every name is here, with its meaning."""

from __future__ import annotations

from contextlib import AbstractContextManager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from headwater import __version__
from headwater.catalog import Catalog

PREFIX = "featurestore_"
#: Why an event goes to the dead letters.
REASONS = ("invalid", "future", "late", "udf")


class Metrics:
    """One registry for one worker."""

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        self.records = Counter(
            PREFIX + "ingest_records",
            "Messages by what became of them (applied, rejected; duplicate: read once more)",
            ["topic", "result"],
            registry=r,
        )
        self.rejected = Counter(
            PREFIX + "ingest_rejected",
            "Events that a view did not get, by reason (invalid, future, late, udf)",
            ["feature_view", "reason"],
            registry=r,
        )
        self.late = Counter(
            PREFIX + "ingest_late_records",
            "Late events of a view by what was done with them (dead_letter)",
            ["feature_view", "action"],
            registry=r,
        )
        self.store_errors = Counter(
            PREFIX + "store_errors", "Failed calls to a store", ["store", "op", "kind"], registry=r
        )
        self.lag_records = Gauge(
            PREFIX + "ingest_lag_records",
            "Messages not yet applied",
            ["topic", "partition"],
            registry=r,
        )
        self.lag_seconds = Gauge(
            PREFIX + "ingest_lag_seconds",
            "Age of the last applied message's record",
            ["topic", "partition"],
            registry=r,
        )
        self.watermark = Gauge(
            PREFIX + "ingest_watermark_timestamp_seconds",
            "Greatest event time that the partitions of a view's source have shown",
            ["feature_view"],
            registry=r,
        )
        self.last_event = Gauge(
            PREFIX + "last_event_timestamp_seconds",
            "Event time of the newest event that a stage has seen",
            ["feature_view", "stage"],
            registry=r,
        )
        self.turned = Gauge(
            PREFIX + "ingest_turn_timestamp_seconds",
            "When the worker last went round: took in what there was, and said how far it is",
            registry=r,
        )
        self.turned.set_to_current_time()
        self.servable_seconds = Histogram(
            PREFIX + "ingest_servable_seconds",
            "From Kafka's record time to the state in Redis: oldest and newest of each batch",
            registry=r,
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60),
        )
        self.jumps = Counter(
            PREFIX + "ingest_jumps",
            "Times that unread messages were gone from Kafka",
            ["topic", "partition"],
            registry=r,
        )
        self.batch_seconds = Histogram(
            PREFIX + "ingest_batch_seconds",
            "Time of one batch by step (decode, fold, redis, log, commit)",
            ["step"],
            registry=r,
            buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30),
        )

        build = Gauge(
            PREFIX + "build_info", "The version that runs", ["component", "version"], registry=r
        )
        build.labels("ingest", __version__).set(1)
        ProcessCollector(registry=r)

    def declare(self, catalog: Catalog) -> None:
        """Create the counters of every view and topic at 0."""
        self.store_errors.labels("redis", "write", "unavailable")
        for stream in catalog.streams.values():
            for topic in stream.topics:
                for result in ("applied", "rejected", "duplicate"):
                    self.records.labels(topic, result)
            for view in catalog.views_of_stream(stream.name):
                self.late.labels(view.name, "dead_letter")
                for reason in REASONS:
                    self.rejected.labels(view.name, reason)

    def step(self, name: str) -> AbstractContextManager[None]:
        """Times one step of a batch."""
        timer: AbstractContextManager[None] = self.batch_seconds.labels(name).time()
        return timer
