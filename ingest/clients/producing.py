"""A plain producer on kafka-python, for tools that send events."""

from __future__ import annotations

from collections.abc import Mapping

from kafka import KafkaProducer
from kafka.errors import KafkaError

from headwater.errors import StoreUnavailableError
from ingest.clients.kafka_python import VERSIONS
from ingest.clients.options import for_kafka_python


def producer(servers: str, options: Mapping[str, str] | None = None) -> KafkaProducer:
    """Raises StoreUnavailableError where no broker answers."""
    failure: Exception | None = None
    for version in VERSIONS:
        try:
            return KafkaProducer(
                bootstrap_servers=servers.split(","),
                acks="all",
                linger_ms=20,
                batch_size=1 << 18,
                bootstrap_timeout_ms=5_000,
                **version,
                **for_kafka_python(options or {}, producer=True),
            )
        except (KafkaError, AssertionError, ValueError) as error:
            failure = error
    raise StoreUnavailableError(
        f"no Kafka broker answers at {servers} ({type(failure).__name__}); "
        "check KAFKA_BOOTSTRAP_SERVERS"
    )
