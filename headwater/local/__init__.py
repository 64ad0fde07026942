"""The local stack: a real Redis and a real Kafka for the demo, the tests and a first try."""

from headwater.local.kafka import LocalKafka
from headwater.local.redis import LocalRedis
from headwater.local.stack import LocalStack

__all__ = ["LocalKafka", "LocalRedis", "LocalStack"]
