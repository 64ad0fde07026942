"""Sends events from a Parquet file to Kafka: the past at once, or each when its time comes.

Columns: topic (string), key, value (binary), event_us (int64, ascending).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ingest import broker

Send = Callable[[str, bytes, bytes], None]


def opened(servers: str) -> tuple[Send, Callable[[], Any]]:
    """(send, flush); confluent-kafka, where installed, sends ten times as fast."""
    try:
        from confluent_kafka import Producer
    except ImportError:
        client = broker.producer(servers)
        return (lambda topic, key, value: client.send(topic, value, key)), client.flush
    fast = Producer(
        {"bootstrap.servers": servers, "linger.ms": 20, "enable.idempotence": True,
         "queue.buffering.max.messages": 1_000_000, "acks": "all"}
    )  # fmt: skip

    def send(topic: str, key: bytes, value: bytes) -> None:
        while True:
            try:
                fast.produce(topic, value, key)
            except BufferError:
                fast.poll(0.1)
            else:
                return

    return send, fast.flush


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", required=True)
    parser.add_argument("--events", type=Path, required=True)
    parser.add_argument("--live", action="store_true", help="wait for each event's time")
    arguments = parser.parse_args()
    events: pa.Table = pq.read_table(arguments.events)
    send, flush = opened(arguments.servers)
    for batch in events.to_batches(max_chunksize=100_000):
        columns = [batch.column(name).to_pylist() for name in ("topic", "key", "value", "event_us")]
        for topic, key, value, event_us in zip(*columns, strict=True):
            if arguments.live:
                wait = event_us / 1e6 - time.time()
                if wait > 0:
                    flush()
                    time.sleep(wait)
            send(topic, key, value)
    flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
