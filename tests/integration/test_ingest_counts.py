"""What workers took in, counted by the service: exactly what was sent, whichever worker dies."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from kafka import KafkaProducer

from headwater.local import LocalKafka
from tests.faults.crew import Crew
from tests.processes import feature_store
from tests.waiting import until

PROJECT = TOPIC = "counted"
DEFINITIONS = f"""
from datetime import timedelta
from feast import Entity, Field, FileSource, KafkaSource, StreamFeatureView, ValueType
from feast.data_format import DeltaFormat, JsonFormat
from feast.types import Int64

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
events = KafkaSource(
    name="events", topic="{TOPIC}", kafka_bootstrap_servers="127.0.0.1:1", timestamp_field="at",
    message_format=JsonFormat("user_id bigint, n bigint, at timestamp"),
    batch_source=FileSource(name="events_log", path="data/log/events",
                            file_format=DeltaFormat(), timestamp_field="at"),
)
last = StreamFeatureView(
    name="last", entities=[user], source=events, timestamp_field="at", ttl=timedelta(days=1),
    schema=[Field(name="user_id", dtype=Int64), Field(name="n", dtype=Int64)],
)
"""


class Sender:
    """Sends events, one in fifty of them broken, and knows how many of each."""

    def __init__(self, bootstrap: str) -> None:
        self._producer = KafkaProducer(bootstrap_servers=bootstrap)
        self.sent = {"applied": 0, "rejected": 0}

    def send(self, count: int) -> None:
        for n in range(count):
            broken = n % 50 == 7
            event = {"user_id": "x" if broken else n % 97, "n": n, "at": time.time_ns() // 1000}
            self._producer.send(TOPIC, json.dumps(event).encode(), partition=n % 4)
            self.sent["rejected" if broken else "applied"] += 1
        self._producer.flush()

    def close(self) -> None:
        self._producer.close()


@pytest.fixture(scope="module")
def crew(
    tmp_path_factory: pytest.TempPathFactory, redis_url: str, kafka: LocalKafka
) -> Iterator[Crew]:
    folder: Path = tmp_path_factory.mktemp(PROJECT)
    (folder / "feature_store.yaml").write_text(feature_store(PROJECT, redis_url))
    (folder / "definitions.py").write_text(DEFINITIONS)
    kafka.create_topics({TOPIC: 4})
    made = Crew(folder, kafka.bootstrap, redis_url, f"{PROJECT}-{time.time_ns()}")
    made.programs.headwater("apply")
    service = made.programs.serve()
    yield made
    for worker in list(made.workers):
        made.leave(worker)
    service.terminate()
    service.wait(30)


def test_each_message_counts_once_whichever_worker_dies(crew: Crew, kafka: LocalKafka) -> None:
    looks: list[dict[str, int]] = []

    def counted() -> dict[str, int]:
        text = crew.programs.get("/metrics")
        start = (
            r"^featurestore_ingest_committed_records_total\{result=\"(\w+)\",topic=\"counted\"\}"
        )
        found = re.findall(rf"{start} (\S+)$", text, re.MULTILINE)
        looks.append({result: int(float(count)) for result, count in found})
        return looks[-1]

    until(lambda: counted() == {"applied": 0, "rejected": 0})
    sender = Sender(kafka.bootstrap)
    workers = [crew.start(), crew.start()]
    sender.send(4000)
    until(lambda: counted()["applied"] > 500)
    for _ in range(2):
        # With batches under way: taken in, some of it written, not yet committed.
        sender.send(4000)
        crew.kill(workers.pop(0))
        workers.append(crew.start())
        until(lambda: counted() == sender.sent, 90)
    crew.leave(workers.pop(0))
    sender.send(1000)
    until(lambda: counted() == sender.sent)
    sender.close()
    for before, after in pairwise(looks):
        assert all(after[result] >= count for result, count in before.items())
