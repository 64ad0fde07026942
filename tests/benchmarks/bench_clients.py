"""How fast each Kafka client hands messages over, against kafka-python's own record objects.

One million events of 150 bytes on four partitions of a real broker on the same machine.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from kafka import KafkaConsumer

from headwater.local import LocalKafka
from ingest.clients import open_consumer

EVENTS, PARTITIONS, BATCH = 1_000_000, 4, 20_000
EVENT = (
    b'{"user_id": "u%06d", "amount": %.2f, "country": "DE", "merchant": "m-12345", '
    b'"event_timestamp": "2026-11-24T12:00:00.000000Z", "channel": "web"}'
)


def fill(servers: str, topic: str) -> int:
    """Send the events; returns the size of one."""
    for made in (
        AdminClient({"bootstrap.servers": servers})
        .create_topics([NewTopic(topic, PARTITIONS)])
        .values()
    ):
        made.result()
    producer = Producer(
        {"bootstrap.servers": servers, "linger.ms": 20, "queue.buffering.max.messages": EVENTS}
    )
    for i in range(EVENTS):
        producer.produce(topic, EVENT % (i % 100_000, i / 7), b"%d" % i, partition=i % PARTITIONS)
    producer.flush()
    return len(EVENT % (1, 1.0))


def columns(kind: str, servers: str, topic: str) -> Callable[[], int]:
    consumer = open_consumer(kind, servers, uuid.uuid4().hex)
    consumer.subscribe([topic])

    def poll() -> int:
        return sum(map(len, consumer.poll(1.0, BATCH)))

    return poll


def objects(servers: str, topic: str) -> Callable[[], int]:
    consumer = KafkaConsumer(
        topic, bootstrap_servers=servers, group_id=uuid.uuid4().hex, auto_offset_reset="earliest",
        isolation_level="read_committed", fetch_max_bytes=16 << 20,
        max_partition_fetch_bytes=4 << 20,
    )  # fmt: skip
    return lambda: sum(map(len, consumer.poll(1000, BATCH).values()))


def rate(poll: Callable[[], int]) -> tuple[float, float]:
    """Events per second and per CPU-second, from the first batch on."""
    while not (first := poll()):
        pass
    started, cpu = time.perf_counter(), time.process_time()
    count = 0
    while count + first < EVENTS:
        count += poll()
    return count / (time.perf_counter() - started), count / (time.process_time() - cpu)


def main() -> None:
    kafka = LocalKafka(allow_mock=False)
    kafka.start()
    servers, topic = kafka.bootstrap, "bench"
    try:
        size = fill(servers, topic)
        rate(columns("kafka-python", servers, topic))  # compiles the kernels, warms the cache
        rates = {
            "kafka-python, record objects": rate(objects(servers, topic)),
            "kafka-python, columns": rate(columns("kafka-python", servers, topic)),
            "confluent-kafka": rate(columns("confluent-kafka", servers, topic)),
        }
    finally:
        kafka.close()
    base = rates["kafka-python, record objects"][0]
    print(f"{EVENTS:,} events of {size} bytes, {PARTITIONS} partitions, consuming only")
    print(f"{'client':32}{'events/s':>12}{'per CPU-s':>12}{'ratio':>8}")
    for name, (wall, cpu) in rates.items():
        print(f"{name:32}{wall:12,.0f}{cpu:12,.0f}{wall / base:8.1f}")


if __name__ == "__main__":
    main()
