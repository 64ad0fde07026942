"""The commands between the offline log and Redis, as a user runs them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import redis

from headwater import catalog_cache
from headwater.local.process import free_ports
from headwater.offline.log import EventLog
from headwater.online.progress import Progress
from headwater.online.values import ViewReader
from headwater.online.writer import OnlineWriter
from headwater.rebuild import missing
from tests.processes import Programs, feature_store

DEFINITIONS = """
from datetime import timedelta
from feast import Entity, FileSource, Field, KafkaSource, StreamFeatureView, ValueType
from feast.aggregation import Aggregation
from feast.data_format import DeltaFormat, JsonFormat
from feast.types import Float64, Int64

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
clicks = KafkaSource(
    name="clicks", topic="fill-clicks", kafka_bootstrap_servers="127.0.0.1:1",
    timestamp_field="at",
    message_format=JsonFormat("user_id bigint, amount double, at timestamp"),
    batch_source=FileSource(name="clicks_log", path="data/log/clicks",
                            file_format=DeltaFormat(), timestamp_field="at"),
)
"""
LATEST = """
latest = StreamFeatureView(
    name="latest", entities=[user], source=clicks, timestamp_field="at",
    schema=[Field(name="user_id", dtype=Int64), Field(name="amount", dtype=Float64)],
)
"""
WINDOWS = """
windows = StreamFeatureView(
    name="windows", entities=[user], source=clicks, timestamp_field="at",
    schema=[Field(name="user_id", dtype=Int64), Field(name="n", dtype=Int64)],
    aggregations=[Aggregation(column="amount", function="count", name="n",
                              time_window=timedelta(days=DAYS))],
)
"""
USERS = 20


@pytest.fixture
def programs(tmp_path: Path, redis_client: redis.Redis, redis_url: str) -> Programs:
    """A project with one row view applied, and 3,000 events of the last hours in its log."""
    (tmp_path / "feature_store.yaml").write_text(feature_store("fills", redis_url))
    found = Programs(tmp_path, {"REDIS_URL": redis_url})
    define(found, LATEST)
    assert "filling" not in found.headwater("apply"), "there is nothing in the log"
    log = EventLog(catalog_cache.load(tmp_path).streams["clicks"])
    for partition in range(3):
        log.append(events(partition), {("fill-clicks", partition): 999})
    return found


def define(programs: Programs, *views: str) -> None:
    (programs.repo / "definitions.py").write_text(DEFINITIONS + "".join(views))


def events(partition: int, n: int = 1000) -> pa.Table:
    now = time.time_ns() // 1000
    times = pa.array(now - np.arange(n, 0, -1) * 3_600_000, pa.timestamp("us", tz="UTC"))
    return pa.table(
        {
            "user_id": pa.array(np.arange(n) % USERS),
            "amount": pa.array(np.arange(n, dtype=np.float64)),
            "at": times,
            "_topic": pa.array(["fill-clicks"] * n),
            "_partition": pa.array(np.full(n, partition, np.int32)),
            "_offset": pa.array(np.arange(n)),
            "_arrived_at": times,
        }
    )


def counts(programs: Programs, client: redis.Redis) -> list[int | None]:
    catalog = catalog_cache.load(programs.repo)
    reader = ViewReader(catalog.project, catalog.views["windows"])
    data = OnlineWriter(client, catalog.project).read(reader.keys([list(range(USERS))], USERS))
    found: list[int | None] = reader.values(data, ["n"], time.time_ns() // 1000).values[0]
    return found


def test_a_new_view_is_filled_by_apply_and_a_changed_one_anew(
    programs: Programs, redis_client: redis.Redis
) -> None:
    define(programs, LATEST, WINDOWS.replace("DAYS", "7"))
    plan = programs.headwater("plan")
    assert "windows (needs a backfill: 3,000 events: filled from the log of clicks)" in plan
    assert json.loads(programs.headwater("plan", "--json"))[-1]["backfill_events"] == 3000
    said = programs.headwater("apply")
    assert "windows: filling from 3,000 events" in said
    assert "windows: servable after" in said
    assert counts(programs, redis_client) == [150] * USERS
    old = set(redis_client.keys("*{*"))  # type: ignore[arg-type]

    define(programs, LATEST, WINDOWS.replace("DAYS", "2"))
    assert "windows: servable after" in programs.headwater("apply")
    assert counts(programs, redis_client) == [150] * USERS
    assert old <= set(redis_client.keys("*{*"))  # type: ignore[arg-type]
    # What the old definition wrote goes when no worker can use it any more.
    retired = redis_client.hkeys("headwater:fills:retired")
    redis_client.hset("headwater:fills:retired", mapping=dict.fromkeys(retired, 1))  # type: ignore[arg-type]
    done = json.loads(programs.headwater("compact", "--json"))
    assert done["keys"] == USERS
    assert done["logs"]["clicks"]["files_after"] == 1
    assert counts(programs, redis_client) == [150] * USERS
    assert "Nothing changes." in programs.headwater("apply")


def test_without_backfill_a_view_waits_for_whoever_fills_it(
    programs: Programs, redis_client: redis.Redis
) -> None:
    define(programs, LATEST, WINDOWS.replace("DAYS", "7"))
    programs.headwater("apply", "--no-backfill")
    assert counts(programs, redis_client) == [0] * USERS
    done = json.loads(programs.headwater("rebuild", "--behind", "--json"))
    assert done["views"] == {"latest": 3000, "windows": 3000}
    assert counts(programs, redis_client) == [150] * USERS
    assert json.loads(programs.headwater("rebuild", "--behind", "--json"))["views"] == {}


def test_rebuild_makes_lost_state_anew(programs: Programs, redis_client: redis.Redis) -> None:
    define(programs, LATEST, WINDOWS.replace("DAYS", "7"))
    programs.headwater("apply")
    keys = redis_client.keys("*{*")
    redis_client.delete(*keys[::2])  # type: ignore[misc,index]
    assert counts(programs, redis_client) != [150] * USERS
    said = programs.headwater("rebuild", "--view", "windows")
    assert "windows: 3,000 events" in said
    assert counts(programs, redis_client) == [150] * USERS


def test_apply_without_redis_writes_the_registry_and_says_what_remains(
    programs: Programs, redis_client: redis.Redis
) -> None:
    define(programs, LATEST, WINDOWS.replace("DAYS", "7"))
    url, programs.env["REDIS_URL"] = (
        programs.env["REDIS_URL"],
        f"redis://127.0.0.1:{free_ports(1)[0]}",
    )
    said = " ".join(programs.headwater("apply").split())
    assert "registry is written" in said
    assert "headwater rebuild --behind" in said
    programs.env["REDIS_URL"] = url
    programs.headwater("rebuild", "--behind")
    assert counts(programs, redis_client) == [150] * USERS
    catalog = catalog_cache.load(programs.repo)
    assert missing(catalog, Progress(redis_client, catalog.project)) == []
