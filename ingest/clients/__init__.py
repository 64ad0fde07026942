"""The Kafka clients: two consumers of a group behind one protocol, and a plain producer."""

from __future__ import annotations

from collections.abc import Mapping

from headwater.errors import HeadwaterError
from ingest.clients.options import read_options
from ingest.records import Consumer

__all__ = ["open_consumer", "read_options"]


def open_consumer(
    kind: str, servers: str, group: str, options: Mapping[str, str] | None = None
) -> Consumer:
    """A member of `group`. `kind`: kafka-python or confluent-kafka; `options` as `read_options`.

    Raises StoreUnavailableError where no broker answers, HeadwaterError where confluent-kafka is
    not installed.
    """
    if kind == "kafka-python":
        from ingest.clients.kafka_python import KafkaPythonConsumer

        return KafkaPythonConsumer(servers, group, options or {})
    try:
        from ingest.clients.confluent import ConfluentConsumer
    except ImportError as error:
        raise HeadwaterError(
            f"confluent-kafka cannot be loaded ({error}); pip install 'headwater[fast]', "
            "or set HEADWATER_KAFKA_CLIENT=kafka-python"
        ) from error
    return ConfluentConsumer(servers, group, options or {})
