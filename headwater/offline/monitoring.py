"""Feast's data-quality monitoring on Headwater's offline store: metrics of any source, by Feast's
own definitions, kept in SQLite beside the project.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import RepoConfig
from feast.data_source import DataSource
from feast.infra.offline_stores.offline_store import OfflineStore
from feast.monitoring.metrics_calculator import MetricsCalculator
from feast.monitoring.monitoring_utils import (
    MONITORING_DIR,
    monitoring_table_meta,
    normalize_monitoring_row,
)

from headwater.arrow import TIMESTAMP
from headwater.catalog import Catalog, ViewPlan
from headwater.catalog_feast import plan_batch
from headwater.offline.scan import Scan, open_view
from headwater.offline.sources import EVENT
from headwater.times import epoch_us

_KINDS = ("feature", "feature_view", "feature_service", "job")


class MonitoredOfflineStore(OfflineStore):
    """The monitoring half of an offline store, as Feast's `MonitoringService` calls it."""

    @staticmethod
    def compute_monitoring_metrics(
        config: RepoConfig,
        data_source: DataSource,
        feature_columns: list[tuple[str, str]],
        timestamp_field: str,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
        histogram_bins: int = 20,
        top_n: int = 10,
    ) -> list[dict[str, Any]]:
        """One column after the other, so that memory is bounded by one; both dates count. A number
        that is not finite counts as null."""
        calculator = MetricsCalculator(histogram_bins, top_n)
        low, high = (None if day is None else epoch_us(day) for day in (start_date, end_date))
        found: list[dict[str, Any]] = []
        for name, kind in feature_columns:
            scan = _scan(config, data_source, timestamp_field)
            scan.limit(low, high)
            parts = [
                _finite(batch.column(0).filter(_within(batch.column(1), low, high)))
                for batch in scan.batches([name, EVENT])
            ]
            column = pa.chunked_array(parts, parts[0].type if parts else pa.float64())
            found += calculator.compute_all(pa.table({name: column}), [(name, kind)])
        return found

    @staticmethod
    def get_monitoring_max_timestamp(
        config: RepoConfig, data_source: DataSource, timestamp_field: str
    ) -> datetime | None:
        scan = _scan(config, data_source, timestamp_field)
        newest = scan.newest_us()
        if newest is None:
            of_each = (pc.max(b.column(0).cast(pa.int64())).as_py() for b in scan.batches([EVENT]))
            newest = max((us for us in of_each if us is not None), default=None)
        return None if newest is None else _EPOCH + timedelta(microseconds=newest)

    @staticmethod
    def ensure_monitoring_tables(config: RepoConfig) -> None:
        with _database(config) as database:
            for kind in _KINDS:
                table, columns, key = monitoring_table_meta(kind)
                database.execute(
                    f"CREATE TABLE IF NOT EXISTS {table} "
                    f"({', '.join(columns)}, PRIMARY KEY ({', '.join(key)}))"
                )

    @staticmethod
    def save_monitoring_metrics(
        config: RepoConfig, metric_type: str, metrics: list[dict[str, Any]]
    ) -> None:
        """A row of the same key is replaced, all of the rows at once or none."""
        table, columns, _ = monitoring_table_meta(metric_type)
        MonitoredOfflineStore.ensure_monitoring_tables(config)
        with _database(config) as database:
            database.executemany(
                f"INSERT OR REPLACE INTO {table} ({', '.join(columns)}) "  # noqa: S608
                f"VALUES ({', '.join('?' * len(columns))})",
                [[_stored(row.get(column)) for column in columns] for row in metrics],
            )

    @staticmethod
    def query_monitoring_metrics(
        config: RepoConfig,
        project: str,
        metric_type: str,
        filters: dict[str, Any] | None = None,
        start_date: date | None = None,
        end_date: date | None = None,
    ) -> list[dict[str, Any]]:
        """Rows by date; no project means every project's, and a filter that is None is none."""
        table, columns, _ = monitoring_table_meta(metric_type)
        wanted = {"project_id": project or None, **(filters or {})}
        tests = [
            *((f"{column} = ?", value) for column, value in wanted.items() if column in columns),
            ("metric_date >= ?", start_date),
            ("metric_date <= ?", end_date),
        ]
        MonitoredOfflineStore.ensure_monitoring_tables(config)
        with _database(config) as database:
            where, values = _where(tests)
            rows = database.execute(
                f"SELECT {', '.join(columns)} FROM {table}{where} ORDER BY metric_date, rowid",  # noqa: S608
                values,
            ).fetchall()
        return [normalize_monitoring_row(dict(zip(columns, row, strict=True))) for row in rows]

    @staticmethod
    def clear_monitoring_baseline(
        config: RepoConfig,
        project: str,
        feature_view_name: str | None = None,
        feature_name: str | None = None,
        data_source_type: str | None = None,
    ) -> None:
        table, _, _ = monitoring_table_meta("feature")
        where, values = _where(
            [
                ("project_id = ?", project),
                ("feature_view_name = ?", feature_view_name),
                ("feature_name = ?", feature_name),
                ("data_source_type = ?", data_source_type),
            ]
        )
        MonitoredOfflineStore.ensure_monitoring_tables(config)
        with _database(config) as database:
            database.execute(f"UPDATE {table} SET is_baseline = 0{where}", values)  # noqa: S608


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _scan(config: RepoConfig, source: DataSource, timestamp_field: str) -> Scan:
    plan = msgspec.structs.replace(plan_batch(config, source), timestamp_field=timestamp_field)
    view = ViewPlan(plan.name, "row", (), (), batch=plan)
    return open_view(Catalog(config.project, "", "", ""), view)


def _within(times: pa.Array, low: int | None, high: int | None) -> pa.Array:
    inside = times.is_valid()
    for us, compare in ((low, pc.greater_equal), (high, pc.less_equal)):
        if us is not None:
            inside = pc.and_(inside, compare(times, pa.scalar(us, TIMESTAMP)))
    return inside


def _finite(column: pa.Array) -> pa.Array:
    if not pa.types.is_floating(column.type):
        return column
    values = column.fill_null(np.nan).to_numpy(zero_copy_only=False)
    return pa.array(values, column.type, mask=~np.isfinite(values))


@contextmanager
def _database(config: RepoConfig) -> Iterator[sqlite3.Connection]:
    """The project's metrics; what is done is committed at the end, or nothing of it is."""
    folder = Path(config.repo_path or ".") / MONITORING_DIR
    folder.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(folder / "metrics.db", timeout=30)) as database, database:
        yield database


def _stored(value: Any) -> Any:
    if isinstance(value, dict | list):
        return json.dumps(value)
    return value.isoformat() if isinstance(value, date) else value


def _where(tests: Sequence[tuple[str, Any]]) -> tuple[str, list[Any]]:
    asked = [(test, _stored(value)) for test, value in tests if value is not None]
    text = " AND ".join(test for test, _ in asked)
    return (f" WHERE {text}" if asked else ""), [value for _, value in asked]
