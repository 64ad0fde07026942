"""Feast's offline-store plugin: `offline_store: {type: headwater.offline.DuckDBOfflineStore}`."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from deltalake import write_deltalake
from feast import FeatureView, OnDemandFeatureView, RepoConfig
from feast.data_format import DeltaFormat
from feast.data_source import DataSource
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.infra.offline_stores.file_source import (
    FileLoggingDestination,
    FileSource,
    SavedDatasetFileStorage,
)
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel
from feast.saved_dataset import SavedDatasetStorage

from headwater.arrow import TIMESTAMP
from headwater.catalog import Catalog, FeatureRefPlan, JoinKeyPlan, ViewPlan
from headwater.catalog_feast import plan_catalog
from headwater.errors import HeadwaterError
from headwater.offline.files import append_file, open_target, storage_options, write_file
from headwater.offline.frames import label_table, time_column, with_time
from headwater.offline.monitoring import MonitoredOfflineStore
from headwater.offline.point_in_time import Past, newest_of_each
from headwater.offline.scan import Scan, open_view
from headwater.offline.sources import EVENT, normalised
from headwater.offline.spec import TIME_COLUMN
from headwater.offline.training_set import build
from headwater.times import epoch_us


class DuckDBOfflineStoreConfig(FeastConfigBaseModel):
    """`path`: where the logs of Kafka sources lie that have no Delta table of their own."""

    type: Literal["headwater.offline.DuckDBOfflineStore"] = "headwater.offline.DuckDBOfflineStore"
    path: str = "data/log"


class DuckDBJob(RetrievalJob):
    """A retrieval that runs when asked for its result."""

    def __init__(
        self,
        run: Callable[[], pa.Table],
        full_feature_names: bool,
        on_demand: list[OnDemandFeatureView],
        metadata: RetrievalMetadata | None,
        repo: Path | None,
    ) -> None:
        self._run, self._full, self._on_demand = run, full_feature_names, on_demand
        self._metadata, self._repo = metadata, repo

    @property
    def full_feature_names(self) -> bool:
        return self._full

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return self._on_demand

    @property
    def metadata(self) -> RetrievalMetadata | None:
        return self._metadata

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._run().to_pandas()

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._run()

    def persist(
        self,
        storage: SavedDatasetStorage,
        allow_overwrite: bool = False,
        timeout: int | None = None,
    ) -> None:
        """Write the result to a file, a folder or a Delta table, as the storage says.

        Raises SavedDatasetLocationAlreadyExists where it exists and may not be overwritten.
        """
        if not isinstance(storage, SavedDatasetFileStorage):
            raise HeadwaterError("a saved dataset goes to a file: use SavedDatasetFileStorage")
        options = storage.file_options
        place = FileSource.get_uri_for_file_path(self._repo, options.uri)
        store, inner = open_target(place, options.s3_endpoint_override or "")
        kind = store.get_file_info(inner).type
        if kind != pafs.FileType.NotFound and not allow_overwrite:
            raise SavedDatasetLocationAlreadyExists(location=place)
        table = self.to_arrow(timeout=timeout)
        if isinstance(options.file_format, DeltaFormat):
            write_deltalake(
                place, table, mode="overwrite", schema_mode="overwrite",
                storage_options=storage_options(place, options.s3_endpoint_override or ""),
            )  # fmt: skip
        elif kind == pafs.FileType.Directory:
            write_file(table, store, f"{inner}/part-0.parquet")
            for old in store.get_file_info(pafs.FileSelector(inner, recursive=True)):
                if old.extension == "parquet" and old.base_name != "part-0.parquet":
                    store.delete_file(old.path)
        else:
            write_file(table, store, inner)


class DuckDBOfflineStore(MonitoredOfflineStore):
    """Point-in-time joins and windows by their definition, over files, Delta and SQL."""

    #: Asked for, a row counts only from its created time on: as of arrival.
    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | pa.Table | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        **kwargs: Any,
    ) -> RetrievalJob:
        """entity_df: a DataFrame, an Arrow table, a Parquet file's path, SQL for DuckDB (which may
        name views and sources as tables), or None with a date range."""
        catalog, views = plan_catalog(config, feature_views)
        if entity_df is None:
            labels = _every_row(views, catalog, kwargs.get("start_date"), kwargs.get("end_date"))
        else:
            labels = label_table(entity_df, catalog)
        time = time_column(labels)
        labels = with_time(labels, time)
        references = _references(feature_views, feature_refs)
        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        times = labels[time]
        past = Past("arrival" if filter_by_created_timestamp else "event")
        metadata = RetrievalMetadata(
            features=feature_refs,
            keys=[name for name in labels.column_names if name != time],
            min_event_timestamp=pc.min(times).as_py(),
            max_event_timestamp=pc.max(times).as_py(),
        )
        return DuckDBJob(
            lambda: build(catalog, references, labels, full_feature_names, None, time, past),
            full_feature_names, on_demand, metadata, config.repo_path,
        )  # fmt: skip

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        def run() -> pa.Table:
            scan, columns = _pull(
                config, data_source, join_key_columns, feature_name_columns,
                timestamp_field, created_timestamp_column,
            )  # fmt: skip
            keys = [JoinKeyPlan(n, "") for n in join_key_columns]
            rows = newest_of_each(scan, keys, _us(start_date), _us(end_date))
            return _keyed(_together(scan, columns, scan.pick(columns, rows)), join_key_columns)

        return DuckDBJob(run, False, [], None, config.repo_path)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        def run() -> pa.Table:
            scan, columns = _pull(
                config, data_source, join_key_columns, feature_name_columns,
                timestamp_field, created_timestamp_column,
            )  # fmt: skip
            scan.limit(_us(start_date), _us(end_date))
            inside = _within(scan.batches([*columns, EVENT]), start_date, end_date)
            return _keyed(_together(scan, columns, inside), join_key_columns)

        return DuckDBJob(run, False, [], None, config.repo_path)

    @staticmethod
    def offline_write_batch(
        config: RepoConfig,
        feature_view: FeatureView,
        table: pa.Table,
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Append rows to a view's batch source, atomically, by the source's own schema."""
        source = feature_view.batch_source
        if not isinstance(source, FileSource):
            raise HeadwaterError(f"view {feature_view.name!r} has no file to append to")
        place = FileSource.get_uri_for_file_path(config.repo_path, source.path)
        endpoint = source.file_options.s3_endpoint_override or ""
        if isinstance(source.file_format, DeltaFormat):
            write_deltalake(
                place, normalised(table), mode="append", schema_mode="merge",
                storage_options=storage_options(place, endpoint),
            )  # fmt: skip
        else:
            append_file(table, *open_target(place, endpoint))
        if progress:
            progress(table.num_rows)

    @staticmethod
    def write_logged_features(
        config: RepoConfig,
        data: pa.Table | Path,
        source: LoggingSource,
        logging_config: LoggingConfig,
        registry: BaseRegistry,
    ) -> None:
        destination = logging_config.destination
        if not isinstance(destination, FileLoggingDestination):
            raise HeadwaterError("feature logs go to files: use FileLoggingDestination")
        table = pq.read_table(data) if isinstance(data, Path) else data
        store, inner = open_target(
            FileSource.get_uri_for_file_path(config.repo_path, destination.path),
            destination.s3_endpoint_override or "",
        )
        write_file(table, store, f"{inner}/{uuid.uuid4()}.parquet")


def _references(views: list[FeatureView], feature_refs: list[str]) -> list[FeatureRefPlan]:
    """What is asked for, view by view, in the order asked; on-demand views are Feast's to add."""
    by_name = {view.projection.name_to_use(): view for view in views}
    found: dict[str, list[str]] = {}
    for text in feature_refs:
        name, feature = text.split(":", 1)
        if name in by_name:
            found.setdefault(name, []).append(feature)
    return [
        FeatureRefPlan(
            by_name[name].name, tuple(features), name,
            dict(by_name[name].projection.join_key_map or {}),
        )
        for name, features in found.items()
    ]  # fmt: skip


def _every_row(
    views: list[ViewPlan], catalog: Catalog, start: datetime | None, end: datetime | None
) -> pa.Table:
    """Without an entity frame: each (entity, event time) of the views within the dates."""
    low, high = start or datetime.fromtimestamp(0, UTC), end or datetime.now(UTC)
    parts = []
    for view in views:
        scan = open_view(catalog, view)
        scan.limit(_us(low), _us(high))
        names = [key.name for key in view.join_keys]
        inside = _within(scan.batches([*names, EVENT]), low, high)
        found = _together(scan, [*names, EVENT], inside)
        parts.append(found.rename_columns([*names, TIME_COLUMN]))
    both = pa.concat_tables(parts, promote_options="permissive")
    return both.group_by(both.column_names, use_threads=False).aggregate([])


def _within(
    batches: Iterable[pa.RecordBatch], start: datetime | None, end: datetime | None
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        event = batch.column(batch.schema.names.index(EVENT))
        for moment, within in ((start, pc.greater_equal), (end, pc.less_equal)):
            if moment is not None:
                kept = within(event, pa.scalar(_us(moment), TIMESTAMP))
                batch, event = batch.filter(kept), event.filter(kept)
        yield batch


def _together(scan: Scan, columns: list[str], batches: Iterable[pa.RecordBatch]) -> pa.Table:
    found = [pa.Table.from_batches([batch.select(columns)]) for batch in batches]
    return pa.concat_tables(found, promote_options="permissive") if found else scan.table(columns)


def _keyed(table: pa.Table, keys: list[str]) -> pa.Table:
    """With the key that Feast gives a view without entities when it loads it online."""
    if keys:
        return table
    return table.append_column(DUMMY_ENTITY_ID, pa.repeat(DUMMY_ENTITY_VAL, table.num_rows))


def _pull(
    config: RepoConfig, source: DataSource, keys: list[str], features: list[str],
    time: str, created: str | None,
) -> tuple[Scan, list[str]]:  # fmt: skip
    """A source's rows by its own names, as Feast asks for them, and the columns wanted."""
    from headwater.catalog_feast import plan_batch

    plan = msgspec.structs.replace(
        plan_batch(config, source), field_mapping={}, timestamp_field=time,
        created_field=created or "",
    )  # fmt: skip
    catalog = Catalog(config.project, "", "", "")
    columns = list(dict.fromkeys([*keys, *features, time, *([created] if created else [])]))
    return open_view(catalog, ViewPlan(plan.name, "row", (), (), batch=plan)), columns


def _us(moment: datetime | None) -> int | None:
    return None if moment is None else epoch_us(moment)
