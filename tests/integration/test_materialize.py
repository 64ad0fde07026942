"""The batch way in: the newest row of each entity, once, and never over a newer one."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis

from headwater.catalog import BatchSourcePlan, Catalog, FieldPlan, JoinKeyPlan, ViewPlan
from headwater.codec import RowCodec, key_prefix, redis_keys
from headwater.errors import HeadwaterError
from headwater.offline.materialize import materialize
from headwater.online import job_status
from headwater.online.commands import CHUNK
from headwater.online.writer import OnlineWriter

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
US = pa.timestamp("us", tz="UTC")


def catalog(path: Path) -> Catalog:
    view = ViewPlan(
        "v", "row", (JoinKeyPlan("id", "INT64"),),
        (FieldPlan("x", "DOUBLE"), FieldPlan("name", "STRING"), FieldPlan("tags", "STRING_LIST")),
        batch=BatchSourcePlan("s", "parquet", str(path), "ts", "created"),
    )  # fmt: skip
    return Catalog("p", "", "", "", views={"v": view})


def write(path: Path, rows: list[tuple[int | None, float, str | None, int, int]]) -> None:
    ids, xs, names, hours, created = zip(*rows, strict=True)
    table = {
        "id": pa.array(ids, pa.int64()), "x": pa.array(xs, pa.float64()), "name": list(names),
        "tags": [["a"] for _ in rows],
        "ts": pa.array([T0 + h * HOUR for h in hours], US),
        "created": pa.array([T0 + h * HOUR for h in created], US),
    }  # fmt: skip
    pq.write_table(pa.table(table), path)


def held(client: redis.Redis, plans: Catalog, *ids: int) -> list[Any]:
    view = plans.views["v"]
    keys = redis_keys(key_prefix("p", view), [list(ids)], len(ids))
    found: list[Any] = client.mget(keys)  # type: ignore[assignment]
    codec = RowCodec.of(view)
    return [None if data is None else codec.unpack(data).values for data in found]


def test_the_newest_row_of_each_entity_is_loaded(redis_client: redis.Redis, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write(path, [
        (1, 1.0, "old", 0, 0), (1, 2.0, "later made", 1, 5), (1, 3.0, "first made", 1, 4),
        (2, float("nan"), None, 0, 0), (None, 9.0, "nobody", 0, 0),
    ])  # fmt: skip
    plans = catalog(path)
    writer = OnlineWriter(redis_client, "p")
    assert materialize(plans, writer) == {"v": 2}
    assert held(redis_client, plans, 1, 2) == [(2.0, "later made", ["a"]), (None, None, ["a"])]
    newest = int((T0 + HOUR).timestamp() * 1e6)
    assert writer.clocks() == {(s, "v"): newest for s in ("source", "offline", "online")}


def test_only_rows_within_the_times_are_loaded(redis_client: redis.Redis, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    plans = catalog(path)
    writer = OnlineWriter(redis_client, "p")
    write(
        path, [(1, float(hour), "one", hour, hour) for hour in range(6)] + [(2, 9.0, "two", 5, 5)]
    )
    first, second, fourth = (int((T0 + h * HOUR).timestamp() * 1e6) for h in (1, 2, 4))
    assert materialize(plans, writer, None, second, fourth) == {"v": 1}
    assert held(redis_client, plans, 1, 2) == [(4.0, "one", ["a"]), None]
    assert materialize(plans, writer, None, None, first) == {"v": 1}
    assert held(redis_client, plans, 1) == [(4.0, "one", ["a"])]
    assert writer.clocks()["online", "v"] == fourth


def test_how_each_load_went_is_kept(redis_client: redis.Redis, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    plans = catalog(path)
    writer = OnlineWriter(redis_client, "p")
    with pytest.raises(HeadwaterError):
        materialize(plans, writer)
    write(path, [(1, 1.0, "one", 0, 0), (2, 2.0, "two", 0, 0)])
    materialize(plans, writer)
    materialize(plans, writer)
    found = job_status.read(writer)[job_status.MATERIALIZE, "v"]
    assert (found.ok, found.failed, found.rows, found.error) == (2, 1, 4, "")
    assert found.last_success == pytest.approx(time.time(), abs=60)
    assert 0 < found.last_failure < found.last_success


def test_a_second_load_brings_what_is_newer_and_leaves_the_rest(
    redis_client: redis.Redis, tmp_path: Path
) -> None:
    path = tmp_path / "rows.parquet"
    plans = catalog(path)
    writer = OnlineWriter(redis_client, "p")
    n = 2 * CHUNK + 10
    write(path, [(i, float(i), "first", 2, 2) for i in range(n)])
    materialize(plans, writer)
    # One chunk has an entity that is held and newer, one that is held and older, and new ones.
    write(path, [(0, 100.0, "older", 1, 1), (1, 101.0, "newer", 3, 3),
                 *((n + i, 1.0, "new", 2, 2) for i in range(CHUNK))])  # fmt: skip
    materialize(plans, writer)
    found = held(redis_client, plans, 0, 1, n - 1, n, n + CHUNK - 1)
    assert [(row[0], row[1]) for row in found] == [
        (0.0, "first"), (101.0, "newer"), (float(n - 1), "first"), (1.0, "new"), (1.0, "new"),
    ]  # fmt: skip
