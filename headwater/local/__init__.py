"""The local stack: a Redis and a Kafka for a laptop, for the demo and for the tests."""
