"""Feast's online-store plugin: `online_store: {type: headwater.online.RedisOnlineStore}`."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from feast import Entity, FeatureView, RepoConfig
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.supported_async_methods import SupportedAsyncMethods
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel

from headwater.catalog import FieldPlan, JoinKeyPlan, ViewPlan
from headwater.codec import RowCodec, entity_text, key_prefix
from headwater.errors import HeadwaterError
from headwater.online.connect import connect
from headwater.online.progress import Progress
from headwater.online.values import NOT_FOUND, ViewReader
from headwater.online.writer import OnlineWriter
from headwater.value_messages import fill, to_plain

DUMMY_ENTITY = "__dummy_id"


class RedisOnlineStoreConfig(FeastConfigBaseModel):
    """`connection_string` is a Redis URL; the environment's REDIS_URL wins over it."""

    type: Literal["headwater.online.RedisOnlineStore"] = "headwater.online.RedisOnlineStore"
    connection_string: str = "redis://127.0.0.1:6379/0"
    timeout_seconds: float = 5.0


class RedisOnlineStore(OnlineStore):
    """Packed rows and windows in Redis; the same values that Headwater's service reads."""

    def __init__(self) -> None:
        self._writer: OnlineWriter | None = None
        self._plans: dict[str, tuple[Any, ViewPlan]] = {}

    @property
    def async_supported(self) -> SupportedAsyncMethods:
        return SupportedAsyncMethods()

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Newest wins on (event time, created), atomically; equal times take the later write."""
        view = self._plan(config, table)
        if view.kind == "window":
            raise HeadwaterError(
                f"view {view.name!r} has windows, which `headwater ingest` folds from its Kafka "
                "source; rows cannot be written to it"
            )
        codec, prefix = RowCodec.of(view), key_prefix(config.project, view)
        keys, rows, newest = [], [], 0
        for entity, values, event, created in data:
            event_us = _us(event)
            newest = max(newest, event_us)
            cells = [
                to_plain(values[name]) if name in values else None for name in view.feature_names
            ]
            keys.append(_key(prefix, entity))
            rows.append(codec.pack(event_us, _us(created) if created else None, -1, -1, cells))
        writer = self._connected(config)
        writer.write_rows(keys, rows)
        if rows:
            stages = ("source", "online")
            writer.raise_clocks({(stage, view.name): newest for stage in stages})
        if progress:
            progress(len(data))

    async def online_write_batch_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        await asyncio.to_thread(self.online_write_batch, config, table, data, progress)

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """(None, None) for an entity without a row; windows as of now.

        A row past its view's ttl is read as any other: so do Feast's own stores, and its SDK has no
        status for it. The service answers OUTSIDE_MAX_AGE.
        """
        view = self._plan(config, table)
        reader = ViewReader(config.project, view)
        known = view.feature_names
        names = [n for n in (requested_features or known) if n in known]
        keys = [_key(reader.prefix, entity) for entity in entity_keys]
        data = self._connected(config).read(keys)
        found = reader.values(data, names, time.time_ns() // 1000)
        types = {field.name: field.type for field in view.features}
        rows: list[tuple[datetime | None, dict[str, Value] | None]] = []
        for i in range(len(keys)):
            if names and found.statuses[0][i] == NOT_FOUND:
                rows.append((None, None))
                continue
            cells = {
                name: fill(Value(), found.values[at][i], types[name])
                for at, name in enumerate(names)
            }
            rows.append((datetime.fromtimestamp(found.event_us[i] / 1e6, UTC), cells))
        return rows

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        return await asyncio.to_thread(
            self.online_read, config, table, entity_keys, requested_features
        )

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Delete what the removed views held, and nothing else."""
        self._delete(config, tables_to_delete)

    def teardown(
        self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]
    ) -> None:
        self._delete(config, tables)

    def _delete(self, config: RepoConfig, tables: Sequence[FeatureView]) -> None:
        for table in tables:
            prefix = key_prefix(config.project, self._plan(config, table))
            writer = self._connected(config)
            # Progress first: where none is told, whatever is found later is not taken for whole.
            Progress(writer.client, config.project).forget(prefix)
            writer.delete_prefix(prefix)

    def _connected(self, config: RepoConfig) -> OnlineWriter:
        if self._writer is None:
            settings = config.online_store
            url = os.environ.get("REDIS_URL") or settings.connection_string
            url = url if "://" in url else f"redis://{url}"
            self._writer = OnlineWriter(connect(url, settings.timeout_seconds), config.project)
        return self._writer

    def _plan(self, config: RepoConfig, table: FeatureView) -> ViewPlan:
        held = self._plans.get(table.name)
        if held is None or held[0] != table:
            held = (table, plan_view(config, table))
            self._plans[table.name] = held
        return held[1]


def plan_view(config: RepoConfig, table: FeatureView) -> ViewPlan:
    """The plan of one Feast view, windows included."""
    if getattr(table, "aggregations", None):
        from headwater.catalog_feast import plan_one

        return plan_one(config, table)
    keys = sorted(
        (c.name, c.dtype.to_value_type().name)
        for c in table.entity_columns
        if c.name != DUMMY_ENTITY
    )
    names = {name for name, _ in keys}
    fields = list(table.features)
    if hasattr(table, "aggregations"):
        fields.sort(key=lambda f: f.name)  # as headwater.catalog_feast orders them
    return ViewPlan(
        name=table.name,
        kind="row",
        join_keys=tuple(JoinKeyPlan(name, kind) for name, kind in keys),
        features=tuple(
            FieldPlan(f.name, f.dtype.to_value_type().name) for f in fields if f.name not in names
        ),
    )


def _key(prefix: bytes, entity: EntityKey) -> bytes:
    pairs = sorted(zip(entity.join_keys, entity.entity_values, strict=True), key=lambda p: p[0])
    values = [to_plain(value) for name, value in pairs if name != DUMMY_ENTITY]
    return prefix + b"{" + (entity_text(values) if values else b"") + b"}"


def _us(time_: datetime) -> int:
    aware = time_ if time_.tzinfo else time_.replace(tzinfo=UTC)
    return round((aware - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1_000_000)
