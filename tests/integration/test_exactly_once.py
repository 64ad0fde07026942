"""A worker killed at random moments neither loses nor doubles an event, in Redis or in the log."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest
import redis
from kafka import KafkaProducer

from headwater import catalog_cache
from headwater.local import LocalKafka
from headwater.offline.sources import read_log
from headwater.online.values import ViewReader
from headwater.online.writer import OnlineWriter
from tests.processes import Programs

USERS, PARTITIONS = 500, 4
YAML = """
project: kills
provider: local
registry: data/registry.db
online_store: {{type: headwater.online.RedisOnlineStore, connection_string: "{redis}"}}
offline_store: {{type: headwater.offline.DuckDBOfflineStore}}
entity_key_serialization_version: 3
"""
DEFINITIONS = """
from datetime import timedelta
from feast import Entity, FileSource, Field, KafkaSource, StreamFeatureView, ValueType
from feast.aggregation import Aggregation
from feast.data_format import DeltaFormat, JsonFormat
from feast.types import Float64, Int64

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
clicks = KafkaSource(
    name="clicks", topic="kill-clicks", kafka_bootstrap_servers="127.0.0.1:1",
    timestamp_field="at",
    message_format=JsonFormat("user_id bigint, amount double, at timestamp"),
    batch_source=FileSource(name="clicks_log", path="data/log/clicks",
                            file_format=DeltaFormat(), timestamp_field="at"),
)
windows = StreamFeatureView(
    name="user_windows", entities=[user], source=clicks, timestamp_field="at",
    schema=[Field(name="user_id", dtype=Int64), Field(name="n", dtype=Int64),
            Field(name="total", dtype=Float64), Field(name="most", dtype=Float64)],
    aggregations=[
        Aggregation(column="amount", function="count", time_window=timedelta(days=7), name="n"),
        Aggregation(column="amount", function="sum", time_window=timedelta(days=7), name="total"),
        Aggregation(column="amount", function="max", time_window=timedelta(days=7), name="most"),
    ],
)
latest = StreamFeatureView(
    name="user_latest", entities=[user], source=clicks, timestamp_field="at",
    schema=[Field(name="user_id", dtype=Int64), Field(name="amount", dtype=Float64)],
)
"""


@pytest.fixture
def programs(
    tmp_path: Path, kafka: LocalKafka, redis_client: redis.Redis, redis_url: str
) -> Programs:
    (tmp_path / "feature_store.yaml").write_text(YAML.format(redis=redis_url))
    (tmp_path / "definitions.py").write_text(DEFINITIONS)
    env = {
        "REDIS_URL": redis_url,
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
        "HEADWATER_BATCH_RECORDS": "500",
        "HEADWATER_LOG_FLUSH_SECONDS": "0.2",
    }
    found = Programs(tmp_path, env)
    found.headwater("apply")
    return found


def produce(bootstrap: str, events: int) -> dict[int, list[tuple[int, float]]]:
    """Events of the last six days, out of order by minutes; user -> [(time, amount)]."""
    chance, now = random.Random(7), time.time_ns() // 1000
    sent: dict[int, list[tuple[int, float]]] = {}
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    producer.partitions_for("kill-clicks")
    for i in range(events):
        user = chance.randrange(USERS)
        at = (
            now
            - (events - i) * (480_000_000_000 // events)
            - chance.randrange(600_000_000)
            - 60_000_000
        )
        amount = float(chance.randrange(1000))
        sent.setdefault(user, []).append((at, amount))
        body = {"user_id": user, "amount": amount, "at": at}
        producer.send("kill-clicks", json.dumps(body).encode(), partition=user % PARTITIONS)
    producer.flush()
    producer.close()
    return sent


def test_sigkill_at_random_moments_loses_and_doubles_nothing(
    programs: Programs, kafka: LocalKafka, redis_client: redis.Redis
) -> None:
    kills = kill_and_compare(programs, kafka, redis_client, events=60_000, kills=4, pause=0.3)
    assert kills >= 3, "the kills came too late to test anything"


def kill_and_compare(
    programs: Programs, kafka: LocalKafka, client: redis.Redis, events: int, kills: int,
    pause: float,
) -> int:  # fmt: skip
    """Kill workers, let one finish, compare log, windows and rows; returns the kills that hit."""
    sent = produce(kafka.bootstrap, events)
    catalog = catalog_cache.load(programs.repo)
    stream = catalog.streams["clicks"]
    chance, hits = random.Random(11), 0
    for _ in range(kills):
        worker = programs.ingest("--until-end")
        before = read_log(stream).num_rows
        deadline = time.monotonic() + 60
        while read_log(stream).num_rows == before and worker.poll() is None:
            assert time.monotonic() < deadline, "the worker takes nothing in"
            time.sleep(0.05)
        time.sleep(chance.random() * pause)
        if worker.poll() is not None:
            break
        worker.kill()
        worker.wait()
        hits += 1
    assert programs.ingest("--until-end").wait(120) == 0

    log = read_log(stream)
    places = set(zip(log["_partition"].to_pylist(), log["_offset"].to_pylist(), strict=True))
    assert log.num_rows == events
    assert len(places) == events

    writer = OnlineWriter(client, catalog.project)
    users = sorted(sent)
    now = time.time_ns() // 1000
    windows = ViewReader(catalog.project, catalog.views["user_windows"])
    data = writer.read(windows.keys([users], len(users)))
    n, total, most = windows.values(data, ["n", "total", "most"], now).values
    amounts = [[amount for _, amount in sent[user]] for user in users]
    assert n == [len(a) for a in amounts]
    assert total == pytest.approx([sum(a) for a in amounts], rel=1e-9)
    assert most == [max(a) for a in amounts]
    rows = ViewReader(catalog.project, catalog.views["user_latest"])
    found = rows.values(writer.read(rows.keys([users], len(users))), ["amount"], now)
    newest = [max(sent[user], key=lambda event: event[0]) for user in users]
    assert found.event_us == [at for at, _ in newest]
    assert found.values[0] == [amount for _, amount in newest]
    return hits
