"""Kafka through kafka-python: the consumer of a group, and the producer of dead letters."""

from __future__ import annotations

from typing import Any

from kafka import KafkaConsumer, KafkaProducer
from kafka.errors import KafkaError

from headwater.errors import StoreUnavailableError

#: Brokers that speak an old dialect only, such as librdkafka's mock cluster, want it said.
_FALLBACK = (2, 3)


def _open(kind: Any, servers: str, **options: Any) -> Any:
    failure: Exception | None = None
    for version in ({}, {"api_version": _FALLBACK}):
        try:
            client = kind(bootstrap_servers=servers.split(","), **version, **options)
            if isinstance(client, KafkaConsumer):
                client.topics()
        except (KafkaError, AssertionError, ValueError) as error:
            failure = error
        else:
            return client
    raise StoreUnavailableError(
        f"no Kafka broker answers at {servers} ({type(failure).__name__}); "
        "check KAFKA_BOOTSTRAP_SERVERS"
    )


def consumer(servers: str, group: str, batch_records: int) -> KafkaConsumer:
    """A consumer that commits only when told to and starts at the earliest offset."""
    return _open(
        KafkaConsumer,
        servers,
        group_id=group,
        enable_auto_commit=False,
        # A killed worker's partitions are free again after this long.
        session_timeout_ms=10_000,
        heartbeat_interval_ms=3_000,
        auto_offset_reset="earliest",
        max_poll_records=batch_records,
        fetch_max_bytes=64 << 20,
        max_partition_fetch_bytes=8 << 20,
        isolation_level="read_committed",
    )


def producer(servers: str) -> KafkaProducer:
    return _open(KafkaProducer, servers, acks="all", linger_ms=20, batch_size=1 << 18)
