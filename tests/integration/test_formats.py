"""Avro and Protobuf through the real programs: apply, ingest from Kafka, and the values served."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from kafka import KafkaProducer

from headwater import catalog_cache
from headwater.errors import HeadwaterError
from headwater.local import LocalKafka
from headwater.offline.sources import read_log
from headwater.online.values import ViewReader
from headwater.online.writer import OnlineWriter
from tests.apicurio import Apicurio
from tests.decoding import avro, framed, generate, proto_messages, record
from tests.processes import Programs, feature_store

PROTO = Path(__file__).parents[1] / "unit" / "clicks.proto"
MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
SCHEMA = record(
    ("user", "long"), ("amount", ["null", "double"], None),
    ("place", ["null", record(("city", "string"), name="Place")], None),
    ("unused", {"type": "map", "values": "int"}, {}), ("at", MILLIS),
)  # fmt: skip
#: An older writer: fewer fields, in another order, of narrower types.
OLDER = record(("at", MILLIS), ("user", "int"), ("amount", "float"))
DEFINITIONS = """
from datetime import timedelta
from feast import Entity, FileSource, Field, KafkaSource, StreamFeatureView, ValueType
from feast.aggregation import Aggregation
from feast.data_format import AvroFormat, DeltaFormat, ProtoFormat
from feast.types import Float64, Int64, String

user = Entity(name="user", join_keys=["user"], value_type=ValueType.INT64)


def views(name, form, tags):
    source = KafkaSource(
        name=name, topic=f"formats-{name}", kafka_bootstrap_servers="127.0.0.1:1",
        timestamp_field="at", message_format=form, tags=tags,
        field_mapping={"place.city": "city"},
        batch_source=FileSource(name=f"{name}_log", path=f"data/log/{name}",
                                file_format=DeltaFormat(), timestamp_field="at"),
    )
    latest = StreamFeatureView(
        name=f"{name}_latest", entities=[user], source=source, timestamp_field="at",
        schema=[Field(name="user", dtype=Int64), Field(name="amount", dtype=Float64),
                Field(name="city", dtype=String)],
    )
    windows = StreamFeatureView(
        name=f"{name}_windows", entities=[user], source=source, timestamp_field="at",
        schema=[Field(name="user", dtype=Int64), Field(name="n", dtype=Int64),
                Field(name="total", dtype=Float64)],
        aggregations=[
            Aggregation(column="*", function="count", time_window=timedelta(days=1), name="n"),
            Aggregation(column="amount", function="sum", time_window=timedelta(days=1),
                        name="total"),
        ],
    )
    return latest, windows


schema = AvroFormat(SCHEMA)
plain_latest, plain_windows = views("plain", schema, {"framing": "none"})
registered_latest, registered_windows = views("registered", schema, {})
proto_latest, proto_windows = views("proto", ProtoFormat("clicks_pb2.Click"), {})
"""
#: (user, amount, city) of the events that are sent, one a second. User 0 in Avro is a zero byte.
EVENTS = [(0, 1.5, "Berlin"), (1, None, None), (0, 2.25, None), (1, 4.0, "Łódź"), (0, None, "")]


@pytest.fixture(scope="module")
def schema_registry() -> Iterator[Apicurio]:
    try:
        server = Apicurio()
    except HeadwaterError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def programs(
    tmp_path: Path, kafka: LocalKafka, redis_client: redis.Redis, redis_url: str,
    schema_registry: Apicurio,
) -> Programs:  # fmt: skip
    (tmp_path / "feature_store.yaml").write_text(feature_store("formats", redis_url))
    text = f"SCHEMA = {json.dumps(SCHEMA)!r}\n{DEFINITIONS}"
    (tmp_path / "definitions.py").write_text(text)
    env = {
        "REDIS_URL": redis_url,
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
        "HEADWATER_SCHEMA_REGISTRY_URL": schema_registry.url,
    }
    return Programs(tmp_path, env)


def test_every_format_is_served_as_it_was_sent(
    programs: Programs, kafka: LocalKafka, redis_client: redis.Redis, schema_registry: Apicurio
) -> None:
    clicks = proto_messages(PROTO, programs.repo)
    programs.headwater("apply")
    newer = schema_registry.register("formats-registered-value", SCHEMA)
    older = schema_registry.register("older-value", OLDER)

    def avro_event(user: int, amount: float | None, city: str | None, at: datetime) -> bytes:
        place = None if city is None else {"city": city}
        return avro(SCHEMA, {"user": user, "amount": amount, "place": place, "at": at})

    def registered(user: int, amount: float | None, city: str | None, at: datetime) -> bytes:
        if city is None and amount is not None:
            return framed(older, avro(OLDER, {"user": user, "amount": amount, "at": at}))
        return framed(newer, avro_event(user, amount, city, at))

    def proto_event(user: int, amount: float | None, city: str | None, at: datetime) -> bytes:
        made = clicks.Click(user=user, amount=amount)
        made.at.FromDatetime(at)
        if city is not None:
            made.place.city = city
        data: bytes = made.SerializeToString()
        return data if user else framed(1, b"\x02\x02" + data)

    now = time.time_ns() // 1000
    first = now // 1_000_000 - 3600
    for name, spell in {
        "plain": avro_event, "registered": registered, "proto": proto_event,
    }.items():  # fmt: skip
        produce(kafka.bootstrap, f"formats-{name}", spell, first)
    assert programs.ingest("--until-end").wait(120) == 0

    catalog = catalog_cache.load(programs.repo)
    writer = OnlineWriter(redis_client, catalog.project)
    for name in ("plain", "registered", "proto"):
        assert read_log(catalog.streams[name]).num_rows == len(EVENTS), name

        def served(view: str, features: list[str]) -> Any:
            reader = ViewReader(catalog.project, catalog.views[view])
            return reader.values(writer.read(reader.keys([[0, 1]], 2)), features, now)

        latest = served(f"{name}_latest", ["amount", "city"])
        assert latest.values == [[None, 4.0], ["", "Łódź"]], name
        assert latest.event_us == [(first + at) * 1_000_000 for at in (4, 3)], name
        windows = served(f"{name}_windows", ["n", "total"])
        assert windows.values == [[3, 2], [3.75, 4.0]], name


def produce(servers: str, topic: str, spell: Callable[..., bytes], first: int) -> None:
    """The events as their format spells them, with what is no message between them."""
    producer = KafkaProducer(bootstrap_servers=servers)
    for second, (user, amount, city) in enumerate(EVENTS):
        at = datetime.fromtimestamp(first + second, UTC)
        producer.send(topic, spell(user, amount, city, at), partition=0)
        producer.send(topic, b"\0\xff\xff\xff\xff?", partition=0)
    producer.flush()
    producer.close()


def test_a_change_of_the_proto_file_is_seen_by_apply(programs: Programs) -> None:
    generate(PROTO, programs.repo)
    programs.headwater("apply")
    changed = programs.repo / "clicks.proto"
    changed.write_text(PROTO.read_text().replace("int64 epoch = 19;", "int64 later = 20;"))
    generate(changed, programs.repo)
    assert "proto" in programs.headwater("apply")
    stream = catalog_cache.load(programs.repo).streams["proto"]
    assert "later" in {field.name for field in stream.fields}


def test_a_class_that_cannot_be_imported_is_refused(programs: Programs) -> None:
    with pytest.raises(AssertionError, match=r"'clicks_pb2.Click' cannot be imported"):
        programs.headwater("apply")
