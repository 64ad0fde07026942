"""Stock Feast with Headwater's offline store: its SDK, our joins."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headwater.errors import HeadwaterError
from headwater.sql_source import SqlSource

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
    query = SqlSource(
        name="pairs",
        query="SELECT a, b, sum(trips) OVER (PARTITION BY a, b ORDER BY ts, created) AS total, "
        "ts AS at, created FROM rows",
        tables=[source],
        timestamp_field="at",
        created_timestamp_column="created",
    )
    totals = FeatureView(name="totals", entities=entities, source=query)  # types from the query
    feast = FeatureStore(config=config)
    feast.apply([*entities, source, query, view, totals])
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


def test_a_view_may_be_a_query_over_files(store: Any) -> None:
    frame = labels(("1", "12", T0), ("1", "12", T0 + 3 * HOUR), ("11", "2", T0), ("9", "9", T0))
    found = store.get_historical_features(entity_df=frame, features=["totals:total"]).to_arrow()
    assert found["total"].to_pylist() == [1, 8, 2, None]
    store.materialize(T0 - HOUR, T0 + 3 * HOUR, feature_views=["totals"])
    online = store.get_online_features(
        features=["totals:total"], entity_rows=[{"a": "1", "b": "12"}, {"a": "9", "b": "9"}]
    ).to_dict()
    assert online["total"] == [8, None]


def test_a_query_that_cannot_run_is_refused_by_apply(store: Any) -> None:
    from feast import FeatureView

    wrong = SqlSource(name="wrong", query="SELECT * FROM nothing", timestamp_field="ts")
    with pytest.raises(HeadwaterError, match=r"source 'wrong': its query failed: .*nothing"):
        store.apply([wrong, FeatureView(name="w", entities=[store.get_entity("a")], source=wrong)])
    with pytest.raises(ValueError, match="a table is a FileSource with a name"):
        SqlSource(name="x", query="SELECT 1", tables=["rows"], timestamp_field="ts")  # type: ignore[list-item]
    with pytest.raises(ValueError, match="has no query"):
        SqlSource(name="x", query=" ", timestamp_field="ts")


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


def test_a_row_created_late_counts_from_then_on_when_asked_for(store: Any) -> None:
    # Two rows bear the event time T0 + 1 h; the winner was created an hour after it.
    frame = labels(("1", "12", T0 + HOUR), ("1", "12", T0 + 2 * HOUR))
    assert trips(store, frame) == [3, 3]
    assert trips(store, frame, filter_by_created_timestamp=True) == [4, 3]


def test_entities_may_be_arrow_or_a_parquet_file(store: Any, tmp_path: Path) -> None:
    frame = pa.Table.from_pandas(labels(("11", "2", T0)), preserve_index=False)
    assert trips(store, frame.to_pandas()) == [2]
    path = tmp_path / "labels.parquet"
    pq.write_table(frame, path)
    assert trips(store, str(path)) == [2]


def test_entity_sql_may_read_the_sources_of_the_views(store: Any) -> None:
    sql = "SELECT DISTINCT a, b, TIMESTAMP '2026-01-01 00:30' AS event_timestamp FROM v ORDER BY b"
    found = store.get_historical_features(entity_df=sql, features=["v:trips"]).to_arrow()
    rows = {(r["a"], r["b"]): r["trips"] for r in found.to_pylist()}
    assert rows["1", "12"] == 1
    assert rows["11", "2"] == 2


def test_times_in_other_zones_and_naive_ones_are_the_same_instant(store: Any) -> None:
    at = T0 + 2 * HOUR
    frame = labels(("11", "2", at))
    zone = frame.assign(event_timestamp=frame["event_timestamp"].dt.tz_convert("Asia/Kolkata"))
    naive = frame.assign(event_timestamp=frame["event_timestamp"].dt.tz_localize(None))
    nanos = frame.assign(event_timestamp=frame["event_timestamp"].astype("datetime64[ns, UTC]"))
    text = frame.assign(event_timestamp=[at.isoformat()])
    for given in (frame, zone, naive, nanos, text):
        assert trips(store, given) == [2]


def test_a_label_column_named_like_a_feature_is_kept_apart_by_full_names(store: Any) -> None:
    frame = labels(("11", "2", T0)).assign(trips=[99])
    with pytest.raises(HeadwaterError, match="full feature names"):
        trips(store, frame)
    found = store.get_historical_features(
        entity_df=frame, features=["v:trips"], full_feature_names=True
    ).to_arrow()
    assert found["trips"].to_pylist() == [99]
    assert found["v__trips"].to_pylist() == [2]


def test_a_wrong_key_type_is_named_before_any_work(store: Any) -> None:
    frame = labels(("11", "2", T0)).assign(a=[{"x": 1}])
    with pytest.raises(HeadwaterError, match="'a'"):
        trips(store, frame)


def test_a_null_key_is_refused(store: Any) -> None:
    with pytest.raises(HeadwaterError, match="'a' is null in 1 label"):
        trips(store, labels((None, "2", T0), ("11", "2", T0)))  # type: ignore[arg-type]


def test_a_column_that_is_there_twice_is_refused(store: Any, tmp_path: Path) -> None:
    table = pa.Table.from_pandas(labels(("1", "12", T0)))
    twice = pa.Table.from_arrays([*table.columns, table["a"]], names=[*table.column_names, "a"])
    path = tmp_path / "labels.parquet"
    pq.write_table(twice, path)
    for frame in (twice, str(path)):
        with pytest.raises(HeadwaterError, match=r"the labels have \['a'\] twice"):
            trips(store, frame)


def test_a_saved_dataset_is_read_back_and_not_overwritten(store: Any, tmp_path: Path) -> None:
    from feast.errors import SavedDatasetLocationAlreadyExists
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

    storage = SavedDatasetFileStorage(str(tmp_path / "saved.parquet"))
    job = store.get_historical_features(entity_df=labels(("11", "2", T0)), features=["v:trips"])
    store.create_saved_dataset(job, "saved", storage)
    assert store.get_saved_dataset("saved").to_arrow()["trips"].to_pylist() == [2]
    with pytest.raises(SavedDatasetLocationAlreadyExists):
        job.persist(storage)


def test_the_newest_row_of_each_entity_is_pulled_within_the_dates(store: Any) -> None:
    from headwater.offline import DuckDBOfflineStore

    def pull(end: datetime) -> list[dict[str, Any]]:
        source = store.get_data_source("rows")
        job = DuckDBOfflineStore.pull_latest_from_table_or_query(
            store.config, source, ["a", "b"], ["trips"], "ts", "created", T0, end
        )
        found = job.to_arrow().select(["a", "b", "trips"]).to_pylist()
        return [row for row in found if row["a"] != "5"]

    first = [{"a": "1", "b": "12", "trips": 1}, {"a": "11", "b": "2", "trips": 2}]
    assert pull(T0) == first
    assert pull(T0 + HOUR) == [first[1], {"a": "1", "b": "12", "trips": 3}]


@pytest.mark.parametrize("pull_latest", [False, True])
def test_a_view_without_entities_is_materialized(
    store: Any, tmp_path: Path, pull_latest: bool
) -> None:
    from feast import FeatureStore, FeatureView, Field, FileSource
    from feast.repo_config import MaterializationConfig
    from feast.types import Int64

    rows = {"trips": [7, 8], "ts": pa.array([T0, T0 + HOUR], pa.timestamp("us", tz="UTC"))}
    pq.write_table(pa.table(rows), tmp_path / "whole.parquet")
    setting = MaterializationConfig(pull_latest_features=pull_latest)
    feast = FeatureStore(config=store.config.model_copy(update={"materialization_config": setting}))
    name = f"whole_{pull_latest}"
    source = FileSource(name=name, path=str(tmp_path / "whole.parquet"), timestamp_field="ts")
    view = FeatureView(
        name=name, entities=[], schema=[Field(name="trips", dtype=Int64)], source=source
    )
    feast.apply([source, view])
    feast.materialize(T0, T0, [name])
    # Feast's SDK wants an entity in a request.
    asked = feast.get_online_features([f"{name}:trips", "totals:total"], [{"a": "1", "b": "12"}])
    assert asked.to_dict()["trips"] == [7]


def test_feature_logs_are_written_as_files_of_a_folder(store: Any, tmp_path: Path) -> None:
    from feast.feature_logging import LoggingConfig
    from feast.infra.offline_stores.file_source import FileLoggingDestination

    from headwater.offline import DuckDBOfflineStore

    logging = LoggingConfig(destination=FileLoggingDestination(path=str(tmp_path / "logs")))
    for _ in range(2):
        DuckDBOfflineStore.write_logged_features(
            store.config, pa.table({"a": ["1"]}), None, logging, store.registry
        )
    assert pq.read_table(tmp_path / "logs").num_rows == 2


def test_a_validation_reference_judges_a_retrieval(store: Any, tmp_path: Path) -> None:
    from feast.dqm.errors import ValidationFailed
    from feast.dqm.profilers.profiler import (
        Profile,
        Profiler,
        ValidationError,
        ValidationReport,
    )  # fmt: skip
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

    class Report(ValidationReport):
        def __init__(self, found: list[ValidationError]) -> None:
            self._found = found

        @property
        def is_success(self) -> bool:
            return not self._found

        @property
        def errors(self) -> list[ValidationError]:
            return self._found

    class Most(Profile):
        def __init__(self, most: int) -> None:
            self.most = most

        def validate(self, dataset: pd.DataFrame) -> ValidationReport:
            over = int((dataset["trips"] > self.most).sum())
            return Report([ValidationError("most", "trips")] * over)

        def to_proto(self) -> Any:
            raise NotImplementedError

    class MostProfiler(Profiler):
        def analyze_dataset(self, dataset: pd.DataFrame) -> Profile:
            return Most(int(dataset["trips"].max()))

        def to_proto(self) -> Any:
            raise NotImplementedError

    def job(time: datetime) -> Any:
        frame = labels(("1", "12", time))
        return store.get_historical_features(entity_df=frame, features=["v:trips"])

    storage = SavedDatasetFileStorage(str(tmp_path / "reference.parquet"))
    saved = store.create_saved_dataset(job(T0), "reference", storage)
    reference = saved.as_reference("most", MostProfiler())
    assert job(T0).to_df(validation_reference=reference)["trips"].tolist() == [1]
    with pytest.raises(ValidationFailed):
        job(T0 + HOUR).to_df(validation_reference=reference)


def test_feast_s_monitoring_measures_and_keeps_its_metrics(store: Any) -> None:
    from feast.monitoring.monitoring_service import MonitoringService

    service = MonitoringService(store)
    job = service.submit_job("p", "auto_compute", "v")
    assert service.execute_job(job)["computed_features"] == 5  # one for each granularity
    assert service.get_job(job, "p")["status"] == "completed"  # type: ignore[index]
    assert service.get_job(job, "another") is None
    base, *rest = service.get_baseline("p", "v")
    assert not rest and base["feature_name"] == "trips"
    assert (base["min_val"], base["row_count"], base["null_count"]) == (1, base["row_count"], 0)
    assert sum(base["histogram"]["counts"]) == base["row_count"] >= 4
    assert base["max_event_timestamp"].startswith("2026-01-01")
    service.auto_compute("p", "v")  # again: rows are replaced, and the baseline stays one
    assert len(service.get_feature_metrics("p", feature_view_name="v", granularity="daily")) == 1
    assert len(service.get_baseline("p", "v")) == 1
    service._get_offline_store().clear_monitoring_baseline(store.config, "p", "v")
    assert service.get_baseline("p", "v") == []
    within = service.compute_transient("p", "v", ["trips"], T0.date(), T0.date())["metrics"]
    assert [m["row_count"] for m in within] == [base["row_count"]]
    before = service.compute_transient("p", "v", ["trips"], date(2025, 1, 1), date(2025, 1, 2))
    assert [m["row_count"] for m in before["metrics"]] == [0]
