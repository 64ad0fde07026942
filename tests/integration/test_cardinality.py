"""However many entities, values, callers and mistakes there are, no series is added for them."""

from __future__ import annotations

import http.client
import json
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest
from kafka import KafkaProducer

from headwater.local import LocalKafka
from tests.processes import Programs, feature_store
from tests.waiting import until
from tests.watched.project import api_keys, as_key

PROJECT = TOPIC = "cardinality"
MANY = 10_000
#: That HTTP knows, and no route takes.
METHODS = ["PROPFIND", "REPORT", "PURGE", "COPY", "MOVE", "LOCK", "MKCOL", "SEARCH", "TRACE"]
FEATURES = [f"f{i}" for i in range(12)]
DEFINITIONS = f"""
from datetime import timedelta
from feast import Entity, Field, FileSource, KafkaSource, StreamFeatureView, ValueType
from feast.data_format import DeltaFormat, JsonFormat
from feast.types import Float64, Int64, String

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
names = {FEATURES!r}
events = KafkaSource(
    name="events", topic="{TOPIC}", kafka_bootstrap_servers="127.0.0.1:1", timestamp_field="at",
    message_format=JsonFormat(
        "user_id bigint, word string, at timestamp, " + ", ".join(f"{{n}} double" for n in names)
    ),
    batch_source=FileSource(name="events_log", path="data/log/events",
                            file_format=DeltaFormat(), timestamp_field="at"),
)
last = StreamFeatureView(
    name="last", entities=[user], source=events, timestamp_field="at", ttl=timedelta(days=1),
    schema=[Field(name="user_id", dtype=Int64),
            Field(name="word", dtype=String, tags={{"categories": "a, b"}}),
            *(Field(name=n, dtype=Float64) for n in names)],
)
"""


@pytest.fixture(scope="module")
def programs(
    tmp_path_factory: pytest.TempPathFactory, redis_url: str, kafka: LocalKafka
) -> Iterator[Programs]:
    folder = tmp_path_factory.mktemp(PROJECT)
    (folder / "feature_store.yaml").write_text(feature_store(PROJECT, redis_url))
    (folder / "definitions.py").write_text(DEFINITIONS)
    kafka.create_topics({TOPIC: 2})
    made = Programs(folder, {
        "REDIS_URL": redis_url, "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
        "HEADWATER_GROUP": f"{PROJECT}-{time.time_ns()}", "HEADWATER_API_KEYS": api_keys(),
    })  # fmt: skip
    made.headwater("apply")
    worker, service = made.ingest(), made.serve()
    yield made
    for one in (worker, service):
        one.terminate()
        one.wait(30)


class Client:
    """One connection to the service."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(url.split("//")[1], timeout=60)

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> int:
        data = None if body is None else json.dumps(body)
        self._connection.request(method, path, data, headers or as_key("root"))
        answer = self._connection.getresponse()
        answer.read()
        return answer.status


def series(address: str) -> set[str]:
    """Names and labels of all that a /metrics page shows."""
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request("GET", "/metrics", headers=as_key("root"))
    text = connection.getresponse().read().decode()
    return {line.rsplit(" ", 1)[0] for line in text.splitlines() if line.startswith("featurestore")}


def sent(kafka: LocalKafka, users: range, words: list[str]) -> None:
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap)
    numbers = dict.fromkeys(FEATURES, 1.5)
    for user, word in zip(users, words, strict=True):
        event = {"user_id": user, "word": word, "at": time.time_ns() // 1000, **numbers}
        producer.send(TOPIC, json.dumps(event).encode(), partition=user % 2)
    for kind in range(20):
        # Of schemas, topics of origin and reasons there are as many as there are mistakes.
        producer.send(TOPIC, json.dumps({"user_id": f"u{kind}", f"x{kind}": kind}).encode())
    producer.flush()
    producer.close()


def asked(client: Client, users: range, chance: random.Random, times: int) -> None:
    """All kinds of requests, good and bad, `times` of each."""
    ids = list(users)
    for i in range(times):
        some = ids[i * len(ids) // times : (i + 1) * len(ids) // times]
        subset = [f"last:{name}" for name in FEATURES if chance.random() < 0.5] or ["last:word"]
        body = {"features": [*subset, "last:word"], "entities": {"user_id": some}}
        assert client.ask("POST", "/get-online-features", body) == 200
        unknown = {"features": [f"last:no{i}"], "entities": {"user_id": some[:1]}}
        assert client.ask("POST", "/get-online-features", unknown) in {404, 422}
        service = {"feature_service": f"no{i}", "entities": {"user_id": some[:1]}}
        assert client.ask("POST", "/get-online-features", service) in {404, 422}
        assert client.ask("GET", f"/no/{i}") == 404
        assert client.ask("GET", f"/ui/views/no{i}") in {303, 404}
        assert client.ask(METHODS[i % len(METHODS)], "/health") == 405
        assert client.ask("POST", "/get-online-features", body, as_key(f"nobody{i}")) == 401
        rows = {"user_id": some[:1], "word": [f"pushed{i}"], "event_timestamp": [time.time()],
                **{name: [0.5] for name in FEATURES}}  # fmt: skip
        push = {"feature_view_name": "last", "df": rows}
        assert client.ask("POST", "/write-to-online-store", push) == 200


def test_nothing_that_is_many_becomes_a_series(programs: Programs, kafka: LocalKafka) -> None:
    chance = random.Random(3)
    addresses = [
        programs.url.split("//")[1], f"127.0.0.1:{programs.env['HEADWATER_METRICS_PORT']}"
    ]  # fmt: skip

    def applied(n: int) -> None:
        def lines() -> list[float]:
            connection = http.client.HTTPConnection(addresses[1], timeout=60)
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
            start = "featurestore_ingest_records_total{"
            return [
                float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
                if line.startswith(start) and "duplicate" not in line
            ]  # fmt: skip

        until(lambda: sum(lines()) >= n)

    sent(kafka, range(2), ["a", "b"])
    applied(22)
    asked(Client(programs.url), range(2), chance, 1)
    until(lambda: any("watermark" in found for found in series(addresses[1])))
    for _ in range(2):  # the first look adds the route /metrics itself
        before = [series(address) for address in addresses]
    assert all(len(found) > 50 for found in before)
    sent(kafka, range(MANY), [f"word{i}" for i in range(MANY)])
    applied(22 + MANY + 20)
    asked(Client(programs.url), range(MANY), chance, 100)
    after = [series(address) for address in addresses]
    assert [sorted(now - then) for now, then in zip(after, before, strict=True)] == [[], []]
