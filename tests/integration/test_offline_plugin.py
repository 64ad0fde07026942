"""Stock Feast with Headwater's offline store: its SDK, our joins."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headwater.errors import HeadwaterError

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.types import Int64, String

    repo = tmp_path_factory.mktemp("repo")
    rows = pa.table(
        {
            "a": ["1", "11", "1", "1"],
            "b": ["12", "2", "12", "12"],
            "trips": pa.array([1, 2, 3, 4], pa.int64()),
            "ts": pa.array([T0, T0, T0 + HOUR, T0 + HOUR], pa.timestamp("ns", tz="UTC")),
            "created": pa.array([T0, T0, T0 + 2 * HOUR, T0 + HOUR], pa.timestamp("us")),
        }
    )
    pq.write_table(rows, repo / "rows.parquet")
    config = RepoConfig(
        project="p",
        registry=str(repo / "registry.db"),
        provider="local",
        online_store={"type": "sqlite", "path": str(repo / "online.db")},
        offline_store={"type": "headwater.offline.DuckDBOfflineStore"},
        entity_key_serialization_version=3,
        repo_path=repo,
    )
    source = FileSource(
        name="rows", path="rows.parquet", timestamp_field="ts", created_timestamp_column="created"
    )
    entities = [
        Entity(name=name, join_keys=[name], value_type=ValueType.STRING) for name in ("a", "b")
    ]
    view = FeatureView(
        name="v",
        entities=entities,
        ttl=timedelta(hours=2),
        schema=[Field(name="trips", dtype=Int64), *(Field(name=n, dtype=String) for n in "ab")],
        source=source,
    )
    feast = FeatureStore(config=config)
    feast.apply([*entities, source, view])
    yield feast


def labels(*rows: tuple[str, str, datetime]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["a", "b", "event_timestamp"])
    frame["event_timestamp"] = pd.to_datetime(frame["event_timestamp"], utc=True)
    return frame


def trips(store: Any, frame: Any, **options: Any) -> list[int | None]:
    job = store.get_historical_features(entity_df=frame, features=["v:trips"], **options)
    table = job.to_arrow()
    assert table["trips"].type == pa.int64()
    values: list[int | None] = table["trips"].to_pylist()
    return values


def test_rows_keep_their_order_and_duplicates_and_integers_their_type(store: Any) -> None:
    late, early = ("1", "12", T0 + 2 * HOUR), ("1", "12", T0)
    nobody = ("9", "9", T0)
    assert trips(store, labels(late, early, nobody, late, early)) == [3, 1, None, 3, 1]


def test_keys_that_concatenate_alike_stay_apart(store: Any) -> None:
    assert trips(store, labels(("1", "12", T0), ("11", "2", T0), ("1", "122", T0))) == [1, 2, None]


def test_the_ttl_includes_its_bound(store: Any) -> None:
    at = T0 + 2 * HOUR
    just_after = at + timedelta(microseconds=1)
    assert trips(store, labels(("11", "2", at), ("11", "2", just_after))) == [2, None]


def test_of_equal_event_times_the_later_created_wins(store: Any) -> None:
    assert trips(store, labels(("1", "12", T0 + HOUR))) == [3]


def test_entities_may_be_sql(store: Any) -> None:
    sql = "SELECT '11' AS a, '2' AS b, TIMESTAMP '2026-01-01 00:30:00' AS event_timestamp"
    assert trips(store, sql) == [2]


def test_without_entities_every_row_in_the_dates_is_a_label(store: Any) -> None:
    found = store.get_historical_features(
        features=["v:trips"], start_date=T0 + HOUR, end_date=T0 + HOUR
    ).to_arrow()
    assert found.select(["a", "b", "trips"]).to_pylist() == [{"a": "1", "b": "12", "trips": 3}]


def test_a_missing_key_column_is_named(store: Any) -> None:
    with pytest.raises(HeadwaterError, match="b"):
        trips(store, labels(("1", "12", T0)).drop(columns="b"))


def test_a_null_event_time_is_refused(store: Any) -> None:
    frame = labels(("1", "12", T0), ("1", "12", T0))
    frame.loc[1, "event_timestamp"] = pd.NaT
    with pytest.raises(HeadwaterError, match="event_timestamp"):
        trips(store, frame)


def test_an_append_is_seen_and_leaves_no_temporary_file(store: Any) -> None:
    repo = Path(store.config.repo_path)
    before = pq.read_table(repo / "rows.parquet").num_rows
    time = T0 + 5 * HOUR
    frame = pd.DataFrame({"a": ["5"], "b": ["5"], "trips": [50], "ts": [time], "created": [time]})
    store.write_to_offline_store("v", frame)
    assert pq.read_table(repo / "rows.parquet").num_rows == before + 1
    assert trips(store, labels(("5", "5", time))) == [50]
    assert not [p.name for p in repo.iterdir() if p.name.startswith(".rows")]
