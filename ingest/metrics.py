"""The worker's metrics; every name is here, with its meaning."""

from __future__ import annotations

from contextlib import AbstractContextManager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

PREFIX = "featurestore_"


class Metrics:
    """One registry for one worker."""

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        self.records = Counter(
            PREFIX + "ingest_records",
            "Messages by what became of them (applied, rejected)",
            ["topic", "result"],
            registry=r,
        )
        self.rejected = Counter(
            PREFIX + "ingest_rejected", "Dead letters by reason", ["topic", "reason"], registry=r
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

    def step(self, name: str) -> AbstractContextManager[None]:
        """Times one step of a batch."""
        timer: AbstractContextManager[None] = self.batch_seconds.labels(name).time()
        return timer
