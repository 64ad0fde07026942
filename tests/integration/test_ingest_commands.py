"""Receipts, dead letters and status of a running worker, through the commands that people use."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from kafka import KafkaProducer

from headwater import catalog_cache
from headwater.local import LocalKafka
from headwater.offline.sources import read_log
from headwater.online import receipts
from headwater.online.progress import Progress
from headwater.online.values import ViewReader
from headwater.online.writer import OnlineWriter
from tests.processes import Programs, feature_store
from tests.waiting import until

TOPIC = "receipts"
DEFINITIONS = """
from datetime import timedelta
from feast import Entity, FileSource, Field, KafkaSource, StreamFeatureView, ValueType
from feast.aggregation import Aggregation
from feast.data_format import DeltaFormat, JsonFormat
from feast.types import Float64, Int64

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
clicks = KafkaSource(
    name="clicks", topic="receipts", kafka_bootstrap_servers="127.0.0.1:1",
    timestamp_field="at", watermark_delay_threshold=timedelta(hours=1),
    message_format=JsonFormat("user_id bigint, amount double, at timestamp"),
    batch_source=FileSource(name="clicks_log", path="data/log/clicks",
                            file_format=DeltaFormat(), timestamp_field="at"),
)
windows = StreamFeatureView(
    name="user_windows", entities=[user], source=clicks, timestamp_field="at",
    schema=[Field(name="user_id", dtype=Int64), Field(name="n", dtype=Int64)],
    aggregations=[
        Aggregation(column="amount", function="count", time_window=timedelta(days=1), name="n"),
    ],
)
"""


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory, redis_url: str, kafka: LocalKafka) -> Path:
    folder = tmp_path_factory.mktemp("receipts")
    (folder / "feature_store.yaml").write_text(feature_store("receipts", redis_url))
    (folder / "definitions.py").write_text(DEFINITIONS)
    Programs(folder, {"REDIS_URL": redis_url}).headwater("apply")
    return folder


@pytest.fixture
def programs(
    repo: Path, kafka: LocalKafka, redis_client: redis.Redis, redis_url: str
) -> Iterator[Programs]:
    env = {"REDIS_URL": redis_url, "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap}
    yield Programs(repo, {**env, "HEADWATER_GROUP": f"receipts-{time.time_ns()}"})


@pytest.fixture
def send(kafka: LocalKafka) -> Iterator[Any]:
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap)

    def one(value: bytes, **more: Any) -> int:
        return int(producer.send(TOPIC, value, partition=0, **more).get(20).offset)

    yield one
    producer.close()


def event(user: int, at_us: int) -> bytes:
    return json.dumps({"user_id": user, "amount": 1.5, "at": at_us}).encode()


def count(programs: Programs, client: redis.Redis, user: int) -> int:
    catalog = catalog_cache.load(programs.repo)
    reader = ViewReader(catalog.project, catalog.views["user_windows"])
    data = OnlineWriter(client, catalog.project).read(reader.keys([[user]], 1))
    found: int = reader.values(data, ["n"], time.time_ns() // 1000).values[0][0]
    return found


def partitions(programs: Programs) -> list[dict[str, Any]]:
    """What `headwater status` says of each partition."""
    found: list[dict[str, Any]] = json.loads(programs.run("status", "--json").stdout)["partitions"]
    return found


def stop(worker: subprocess.Popen[bytes]) -> None:
    worker.terminate()
    assert worker.wait(120) == 0


def test_an_event_that_was_waited_for_is_servable(
    programs: Programs, send: Any, redis_client: redis.Redis
) -> None:
    send(event(1, time.time_ns() // 1000 - 2_000_000))
    worker = programs.ingest()
    try:
        # Of every partition that it has, events or none.
        until(lambda: sum(one["running"] for one in partitions(programs)) == 4, 120, "no status")
        before = count(programs, redis_client, 1)
        offset = send(event(1, time.time_ns() // 1000 - 1_000_000))
        done = json.loads(programs.headwater(
            "wait", "--topic", TOPIC, "--partition", "0", "--offset", str(offset), "--json"
        ))  # fmt: skip
        assert done["servable"]
        assert count(programs, redis_client, 1) == before + 1
        now = next(one for one in partitions(programs) if one["partition"] == 0)
        assert now["running"]
        assert now["position"] == offset + 1
        (view,) = json.loads(programs.run("status", "--json").stdout)["views"]
        assert view["state"] == "no objective"
        assert view["source_us"] >= view["online_us"] > 0
        later = programs.run(
            "wait", "--topic", TOPIC, "--partition", "0", "--offset", str(offset + 9),
            "--timeout", "0.2", "--json",
        )  # fmt: skip
        assert later.returncode == 1
        assert not json.loads(later.stdout)["servable"]
        unknown = programs.run("wait", "--topic", "none", "--partition", "0", "--offset", "0")
        assert unknown.returncode == 1
        assert "no online view reads topic 'none'" in unknown.stderr
    finally:
        stop(worker)
    ended = {one["partition"]: one for one in partitions(programs)}
    assert all(one["stopped"] and not one["running"] for one in ended.values())
    assert ended[0]["committed"] == offset + 1
    assert "stopped" in programs.run("status").stdout


def test_no_event_waits_for_a_compiler(programs: Programs, send: Any, tmp_path: Path) -> None:
    def compiled() -> set[Path]:
        return set(tmp_path.rglob("*.nb?"))

    programs.env["NUMBA_CACHE_DIR"] = str(tmp_path)
    for client in ("kafka-python", "confluent-kafka"):
        programs.env["HEADWATER_KAFKA_CLIENT"] = client
        worker = programs.ingest()
        try:
            before = compiled()
            offset = str(send(event(4, time.time_ns() // 1000)))
            programs.headwater("wait", "--topic", TOPIC, "--partition", "0", "--offset", offset)
            assert before
            assert sorted(p.name for p in compiled() - before) == [], client
        finally:
            stop(worker)


def test_where_events_are_is_known_of_a_worker_that_stopped_and_of_one_that_just_began(
    programs: Programs, send: Any, redis_client: redis.Redis
) -> None:
    catalog = catalog_cache.load(programs.repo)
    progress = Progress(redis_client, catalog.project)
    worker = programs.ingest()
    until(lambda: sum(one["running"] for one in partitions(programs)) == 4, failure="no status")
    at = time.time_ns() // 1000
    offset = send(event(3, at))
    assert receipts.wait(catalog, progress, TOPIC, 0, offset, 120)
    stop(worker)  # within the second after which it would have said so anyway
    (view,) = json.loads(programs.run("status", "--json").stdout)["views"]
    assert view["source_us"] == view["online_us"] == at
    worker = programs.ingest()
    until(lambda: sum(one["running"] for one in partitions(programs)) == 4, failure="no status")
    began = next(one for one in partitions(programs) if one["partition"] == 0)
    stop(worker)
    assert began["applied"] == 0
    assert began["watermark_us"] == at


def test_dead_letters_keep_their_bytes_and_are_replayed_once(
    programs: Programs, send: Any, redis_client: redis.Redis
) -> None:
    now = time.time_ns() // 1000
    send(event(2, now - 2_000_000))
    bad = send(b'{"user_id": "x"}', key=b"k\xff", headers=[("trace", b"7"), ("trace", b"8")])
    late = send(event(2, now - 2 * 3_600_000_000))
    assert programs.ingest("--until-end").wait(240) == 0

    def letters(*words: str) -> list[dict[str, Any]]:
        lines = programs.headwater("dead-letters", "list", "--topic", TOPIC, "--json", *words)
        return [json.loads(line) for line in lines.splitlines()]

    mine = {one["offset"]: one for one in letters() if one["offset"] in {bad, late}}
    assert mine[bad]["kind"] == "invalid"
    assert mine[bad]["value"] == '{"user_id": "x"}'
    assert mine[bad]["key"] == "base64:a/8="
    assert "user_id" in mine[bad]["reason"]
    assert mine[late]["kind"] == "late"
    assert max(one["offset"] for one in letters("--kind", "late")) == late

    done = json.loads(programs.headwater("dead-letters", "replay", "--kind", "late", "--json"))
    assert done["replayed"] >= 1
    again = json.loads(programs.headwater("dead-letters", "replay", "--kind", "late", "--json"))
    assert again["replayed"] == 0
    assert again["kept"] >= 1
    assert programs.ingest("--until-end").wait(240) == 0
    # It is as late as it was, and says so from its new place.
    assert max(one["offset"] for one in letters("--kind", "late")) > late
    log = read_log(catalog_cache.load(programs.repo).streams["clicks"])
    assert bad not in log["_offset"].to_pylist()


def test_letters_of_anybodys_are_listed_and_stay_or_go_where_there_is_a_partition(
    programs: Programs, send: Any, kafka: LocalKafka, redis_client: redis.Redis
) -> None:
    """Anybody may write to the topic, and topics are made anew with fewer partitions."""
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap)

    def letter(value: bytes, **headers: bytes) -> None:
        named = [(f"headwater-{name}", text) for name, text in headers.items()]
        producer.send(f"{TOPIC}.dead-letter", value, headers=named).get(20)

    letter(b"no headers")
    letter(b"elsewhere", reason=b"future: ?", topic=b"payments", partition=b"0", offset=b"0")
    letter(b"odd", reason=b"future: ?", topic=TOPIC.encode(), partition=b"\xff", offset=b"x",
           replays=b"often", cut=b"")  # fmt: skip
    letter(b"77", reason=b"future: ?", topic=TOPIC.encode(), partition=b"77", offset=b"5")
    producer.close()
    lines = programs.headwater("dead-letters", "list", "--json", "--kind", "future").splitlines()
    assert {(one["value"], one["partition"]) for one in map(json.loads, lines)} == {
        ("elsewhere", 0), ("odd", -1), ("77", 77),
    }  # fmt: skip
    done = json.loads(programs.headwater("dead-letters", "replay", "--kind", "future", "--json"))
    assert done["replayed"] == 1
    assert programs.ingest("--until-end").wait(60) == 0
    lines = programs.headwater("dead-letters", "list", "--json", "--kind", "invalid").splitlines()
    (again,) = [one for one in map(json.loads, lines) if one["value"] == "77"]
    assert 0 <= again["partition"] < 4


SHARED = """
from datetime import timedelta
from feast import Entity, FileSource, Field, KafkaSource, StreamFeatureView, ValueType
from feast.aggregation import Aggregation
from feast.data_format import DeltaFormat, JsonFormat
from feast.types import Int64


def counted(key):
    source = KafkaSource(
        name=f"of_{key}", topic="shared", kafka_bootstrap_servers="127.0.0.1:1",
        timestamp_field="at", watermark_delay_threshold=timedelta(hours=1),
        message_format=JsonFormat(f"{key} bigint, amount double, at timestamp"),
        batch_source=FileSource(name=f"{key}_log", path=f"data/log/{key}",
                                file_format=DeltaFormat(), timestamp_field="at"),
    )
    return StreamFeatureView(
        name=f"{key}_windows", source=source, timestamp_field="at",
        entities=[Entity(name=key, join_keys=[key], value_type=ValueType.INT64)],
        schema=[Field(name=key, dtype=Int64), Field(name="n", dtype=Int64)],
        aggregations=[
            Aggregation(column="amount", function="count", time_window=timedelta(days=1), name="n"),
        ],
    )


users, shops = counted("user_id"), counted("shop_id")
"""


def test_what_one_source_of_a_topic_rejected_is_not_counted_twice_by_another(
    tmp_path: Path, kafka: LocalKafka, redis_url: str
) -> None:
    kafka.create_topics({"shared": 1})
    (tmp_path / "feature_store.yaml").write_text(feature_store("shared", redis_url))
    (tmp_path / "definitions.py").write_text(SHARED)
    env = {"REDIS_URL": redis_url, "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap}
    programs = Programs(tmp_path, env)
    programs.headwater("apply")
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap)
    now = time.time_ns() // 1000
    for one in ({"user_id": 1}, {"shop_id": 2}, {"user_id": 1, "shop_id": 2}, {}):
        value = json.dumps({**one, "amount": 1.0, "at": now}).encode()
        producer.send("shared", value, partition=0).get(20)
    producer.close()

    def letters() -> list[tuple[int, str]]:
        lines = programs.headwater("dead-letters", "list", "--json").splitlines()
        return [(one["offset"], one["source"]) for one in map(json.loads, lines)]

    assert programs.ingest("--until-end").wait(240) == 0
    rejected = [(0, "of_shop_id"), (1, "of_user_id"), (3, "of_shop_id"), (3, "of_user_id")]
    assert sorted(letters()) == rejected
    assert json.loads(programs.headwater("dead-letters", "replay", "--json"))["replayed"] == 4
    assert programs.ingest("--until-end").wait(240) == 0
    again = [letter for letter in letters() if letter[0] > 3]
    assert sorted(source for _, source in again) == ["of_shop_id"] * 2 + ["of_user_id"] * 2
    assert len(again) == len({offset for offset, _ in again}), "each was sent again for one source"
    streams = catalog_cache.load(tmp_path).streams
    for source, offsets in (("of_user_id", [0, 2]), ("of_shop_id", [1, 2])):
        assert sorted(read_log(streams[source])["_offset"].to_pylist()) == offsets
