"""Sends events from a Parquet file to Kafka: the past at once, or each when its time comes.

Columns: topic (string), key, value (binary), event_us (int64, ascending).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from headwater.errors import HeadwaterError
from headwater.settings import Settings
from ingest.clients import read_options
from ingest.clients.options import for_confluent
from ingest.clients.producing import producer

#: Messages that may wait for a paced worker: librdkafka's mock broker silently drops what
#: exceeds 5 MB a partition.
PACE = 12_000
Send = Callable[[str, bytes, bytes], None]


def opened(servers: str, options: Mapping[str, str]) -> tuple[Send, Callable[[], Any]]:
    """(send, flush); confluent-kafka, where installed, sends ten times as fast."""
    try:
        from confluent_kafka import Producer
    except ImportError:
        client = producer(servers, options)
        return (lambda topic, key, value: client.send(topic, value, key)), client.flush
    fast = Producer(
        {"bootstrap.servers": servers, "linger.ms": 20, "enable.idempotence": True,
         "queue.buffering.max.messages": 1_000_000, "acks": "all",
         **for_confluent(options, producer=True)}
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
    try:
        return _replay()
    except HeadwaterError as error:
        sys.stderr.write(f"ingest.replay: {error}\n")
        return 1


def _replay() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", required=True)
    parser.add_argument("--events", type=Path, required=True)
    parser.add_argument("--live", action="store_true", help="wait for each event's time")
    parser.add_argument("--paced-by", default="", help="a worker's /metrics: stay near it")
    arguments = parser.parse_args()
    events: pa.Table = pq.read_table(arguments.events)
    config = Settings.from_env(os.environ).kafka_config
    send, flush = opened(arguments.servers, read_options(Path(config)) if config else {})
    size = PACE if arguments.paced_by else 100_000
    sent = 0
    for batch in events.to_batches(max_chunksize=size):
        while arguments.paced_by and sent - applied(arguments.paced_by) > PACE:
            time.sleep(0.05)
        columns = [batch.column(name).to_pylist() for name in ("topic", "key", "value", "event_us")]
        for topic, key, value, event_us in zip(*columns, strict=True):
            if arguments.live:
                wait = event_us / 1e6 - time.time()
                if wait > 0:
                    flush()
                    time.sleep(wait)
            send(topic, key, value)
        sent += batch.num_rows
        if arguments.paced_by:
            flush()
    flush()
    return 0


def applied(url: str) -> int:
    """Messages that the worker with these metrics has taken in; 0 while it is not up."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 (our own worker)
            text = answer.read().decode()
    except OSError:
        return 0
    lines = [x for x in text.splitlines() if x.startswith("featurestore_ingest_records_total")]
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in lines))


if __name__ == "__main__":
    sys.exit(main())
