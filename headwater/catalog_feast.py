"""From a Feast registry to a `Catalog`: the one place that reads Feast's objects.

Run as a program it writes the catalogue's JSON for processes that must not wait for Feast's import.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import dill
import msgspec
from feast import FeatureStore
from feast.data_format import DeltaFormat
from feast.data_source import KafkaSource, PushSource
from feast.entity import Entity
from feast.infra.offline_stores.file_source import FileLoggingDestination, FileSource
from feast.on_demand_feature_view import OnDemandFeatureView

from headwater import catalog as plans
from headwater.aggregations import Wanted, parse_function, plan_aggregation
from headwater.catalog_code import plan_code
from headwater.catalog_messages import plan_messages
from headwater.errors import DefinitionError
from headwater.sql_source import SqlSource

DUMMY_ENTITY = "__dummy_id"


def build(store: FeatureStore, online_store: Any = None) -> plans.Catalog:
    """The plans of everything in a store's registry. Raises DefinitionError for what can't be.

    online_store: its configuration, where the store itself has another one for the time being.
    """
    registry, project = store.registry, store.project
    entities = {e.name: _entity(e) for e in registry.list_entities(project)}
    entities.pop("__dummy", None)
    root = _absolute(store, str(getattr(store.config.offline_store, "path", "") or "data/log"))
    draft = _Draft(store, root, entities)
    feast_views = [
        *registry.list_feature_views(project),
        *registry.list_stream_feature_views(project),
    ]
    views = {v.name: draft.view(v) for v in feast_views}
    functions = _functions(registry.proto(), project)
    on_demand = {
        v.name: _on_demand(v, draft.repo, functions)
        for v in registry.list_on_demand_feature_views(project)
    }
    services = {s.name: _service(store, s) for s in registry.list_feature_services(project)}
    catalog = plans.Catalog(
        project=project,
        version="",
        redis_url=_redis_url(online_store or store.config.online_store),
        log_root=root,
        entities=entities,
        streams=draft.streams,
        push_sources=draft.pushes,
        views=views,
        on_demand=on_demand,
        services=services,
    )
    # Pickled code differs from one apply to the next; its text does not.
    text = re.sub(rb'"body":"[^"]*"', b"", plans.encode(catalog))
    version = hashlib.blake2b(text, digest_size=8).hexdigest()
    return msgspec.structs.replace(catalog, version=version)


class _Draft:
    """Sources as they are met while the views are planned."""

    def __init__(self, store: Any, root: str, entities: dict[str, plans.EntityPlan]) -> None:
        self.store, self.root, self.entities = store, root, entities
        self.repo = str(getattr(store, "repo_path", None) or ".")
        self.streams: dict[str, plans.StreamSourcePlan] = {}
        self.pushes: dict[str, plans.PushSourcePlan] = {}

    def view(self, view: Any) -> plans.ViewPlan:
        stream = push = ""
        source = getattr(view, "stream_source", None)
        if isinstance(source, KafkaSource):
            stream = source.name
            self.streams[stream] = self._stream(source, view)
        elif isinstance(source, PushSource):
            push = source.name
            self.pushes[push] = plans.PushSourcePlan(push, self._file(source))
        batch = self.batch(getattr(view, "batch_source", None))
        keys = tuple(
            sorted(
                (
                    plans.JoinKeyPlan(c.name, c.dtype.to_value_type().name)
                    for c in view.entity_columns
                    if c.name != DUMMY_ENTITY
                ),
                key=lambda key: key.name,
            )
        )
        # Feast gives a stream view without entities a field for its stand-in.
        names = {DUMMY_ENTITY, *(key.name for key in keys)}
        fields = tuple(_field(f) for f in view.features if f.name not in names)
        if hasattr(view, "aggregations"):
            # The registry keeps a stream view's fields in hash order; the layout must not vary.
            fields = tuple(sorted(fields, key=lambda f: f.name))
        aggregations = tuple(getattr(view, "aggregations", None) or ())
        kind: plans.ViewKind = "window" if aggregations else "row"
        planned: tuple[plans.AggregationPlan, ...] = ()
        code = plan_code(view, self.repo)
        if aggregations:
            if not stream:
                raise DefinitionError(
                    f"stream feature view {view.name!r}",
                    "windows are folded from a Kafka source, and it has none",
                    "Give it source=KafkaSource(...), or drop its aggregations",
                )
            planned, fields = _aggregations(view, self.streams[stream], fields, code is not None)
        return plans.ViewPlan(
            name=view.name,
            kind=kind,
            join_keys=keys,
            features=fields,
            ttl_us=_us(view.ttl) or 0,
            stream=stream,
            push=push,
            batch=batch,
            aggregations=planned,
            udf=code,
            # Nothing is loaded for a view that Feast's `disable_feature_view` was told of.
            online=bool(view.online and getattr(view, "enabled", True)),
            offline=bool(getattr(view, "offline", False)),
            description=view.description or "",
            owner=view.owner or (view.tags or {}).get("owner", ""),
            tags=dict(view.tags or {}),
        )

    def _stream(self, source: KafkaSource, view: Any) -> plans.StreamSourcePlan:
        options = source.kafka_options
        messages = plan_messages(source, view, self.repo)
        history = self._file(source)
        log = f"{self.root}/{source.name}"
        if history is not None and history.format == "delta":
            log, history = history.path, None
        return plans.StreamSourcePlan(
            name=source.name,
            topics=tuple(t.strip() for t in (options.topic or source.name).split(",")),
            bootstrap_servers=options.kafka_bootstrap_servers or "",
            format=messages.format,
            fields=messages.fields,
            timestamp_field=messages.timestamp_field,
            created_field=source.created_timestamp_column or "",
            field_mapping=dict(source.field_mapping or {}),
            watermark_delay_us=_us(options.watermark_delay_threshold),
            avro_schema=messages.avro_schema,
            proto_class=messages.proto_class,
            proto_descriptors=messages.proto_descriptors,
            framing=messages.framing,
            log_path=log,
            history=history,
        )

    def batch(self, source: Any) -> plans.BatchSourcePlan | None:
        if isinstance(source, SqlSource):
            return self._query(source)
        if source is None or not isinstance(source, FileSource):
            return None
        path = _absolute(self.store, source.path)
        delta = isinstance(source.file_format, DeltaFormat)
        return plans.BatchSourcePlan(
            name=source.name or source.path,
            format="delta" if delta else "csv" if path.endswith(".csv") else "parquet",
            path=path,
            timestamp_field=source.timestamp_field or "",
            created_field=source.created_timestamp_column or "",
            field_mapping=dict(source.field_mapping or {}),
            s3_endpoint=source.s3_endpoint_override or "",
        )

    def _file(self, source: Any) -> plans.BatchSourcePlan | None:
        """The batch source behind a stream or push, which is read by offset or written to."""
        if isinstance(source.batch_source, SqlSource):
            raise DefinitionError(
                f"data source {source.name!r}",
                "its batch source is a query, which has neither offsets nor a place to write to",
                "Give it a FileSource; a feature view without a stream may read a SqlSource",
            )
        return self.batch(source.batch_source)

    def _query(self, source: SqlSource) -> plans.BatchSourcePlan:
        tables = (self.batch(table) for table in source.tables)
        return plans.BatchSourcePlan(
            name=source.name,
            format="query",
            path="",
            timestamp_field=source.timestamp_field or "",
            created_field=source.created_timestamp_column or "",
            field_mapping=dict(source.field_mapping or {}),
            query=source.query,
            tables=tuple(table for table in tables if table is not None),
        )


def plan_one(config: Any, view: Any) -> plans.ViewPlan:
    """The plan of one view of a store that is configured as `config`."""
    return plan_catalog(config, [view])[1][0]


def plan_batch(config: Any, source: Any) -> plans.BatchSourcePlan:
    """The plan of a batch source. Raises DefinitionError where it is no file."""
    plan = _Draft(config, "", {}).batch(source)
    if plan is None:
        raise DefinitionError(
            f"data source {source.name!r}",
            f"{type(source).__name__} cannot be read here",
            "Use FileSource (Parquet, Delta or CSV) or headwater.SqlSource over such",
        )
    return plan


def plan_catalog(config: Any, views: Any) -> tuple[plans.Catalog, list[plans.ViewPlan]]:
    """A catalogue of some views only, as Feast hands them to its plugins."""
    root = _absolute(config, str(getattr(config.offline_store, "path", "") or "data/log"))
    draft = _Draft(config, root, {})
    planned = [draft.view(view) for view in views]
    catalog = plans.Catalog(
        project=config.project, version="", redis_url="", log_root=root,
        streams=draft.streams, push_sources=draft.pushes,
        views={view.name: view for view in planned},
    )  # fmt: skip
    return catalog, planned


def _aggregations(
    view: Any, stream: plans.StreamSourcePlan, fields: tuple[plans.FieldPlan, ...], has_udf: bool
) -> tuple[tuple[plans.AggregationPlan, ...], tuple[plans.FieldPlan, ...]]:
    """One plan for each feature, and the features in that order."""
    types = {stream.field_mapping.get(f.name, f.name): f.type for f in stream.fields}
    declared = {f.name: f for f in fields}
    if has_udf:
        types |= _made_types(view, declared, types)
    planned, features = [], []
    for a in view.aggregations:
        wanted = Wanted(
            a.resolved_name(a.time_window), a.function, a.column, _us(a.time_window),
            _us(a.slide_interval), _us(view.tiling_hop_size),
        )  # fmt: skip
        plan, field = plan_aggregation(
            f"stream feature view {view.name!r}", wanted, types, stream.name, has_udf,
            declared.pop(wanted.name, None),
        )  # fmt: skip
        planned.append(plan)
        features.append(field)
    if declared:
        raise DefinitionError(
            f"stream feature view {view.name!r}",
            f"its schema has {sorted(declared)}, which no aggregation makes",
            f"Aggregations make: {', '.join(p.name for p in planned)}",
        )
    return tuple(planned), tuple(features)


def _made_types(
    view: Any, declared: Mapping[str, plans.FieldPlan], types: Mapping[str, str]
) -> dict[str, str]:
    """The types of columns that a udf makes, where they are no numbers.

    A feature that is a value of its column tells. Of a column that is only counted nothing needs to
    be known: any value can be a text.
    """
    found: dict[str, str] = {}
    used: dict[str, set[str]] = {}
    for a in view.aggregations:
        function, _ = parse_function(f"stream feature view {view.name!r}", a.function)
        used.setdefault(a.column, set()).add(function)
        field = declared.get(a.resolved_name(a.time_window))
        if field is not None and function in _VALUES:
            kind = field.type.removesuffix("_LIST") if function.endswith("_n") else field.type
            if kind == "UNIX_TIMESTAMP" or plans.column_kind(kind) == "object":
                found[a.column] = kind
    counted = {c for c, functions in used.items() if functions <= {"count", "count_distinct"}}
    return found | {c: "STRING" for c in counted - {"", "*"} if c not in types}


#: Functions whose result is a value of the column, or some.
_VALUES = {"first", "last", "min", "max", "first_n", "last_n"}


def _functions(registry: Any, project: str) -> dict[str, Any]:
    """The functions of a registry's on-demand views as they were defined.

    Feast's own objects have them made anew from their text, without anything that lies around it:
    imports, constants, other functions.
    """
    return {
        view.spec.name: dill.loads(body)  # noqa: S301 (the registry is the project's own code)
        for view in registry.on_demand_feature_views
        if view.spec.project == project
        and (body := view.spec.feature_transformation.user_defined_function.body)
    }


def _on_demand(
    view: OnDemandFeatureView, repo: str, functions: dict[str, Any]
) -> plans.OnDemandPlan:
    code = plan_code(view, repo, functions.get(view.name))
    if code is None:
        raise DefinitionError(
            f"on-demand feature view {view.name!r}",
            "it has no Python transformation",
            'Use mode="python" or mode="pandas"',
        )
    inputs = tuple(_reference(p) for p in view.source_feature_view_projections.values())
    request = tuple(
        _field(f) for source in view.source_request_sources.values() for f in source.schema
    )
    return plans.OnDemandPlan(
        view.name, tuple(_field(f) for f in view.features), inputs, request, code,
        bool(view.singleton), view.description or "",
        view.owner or (view.tags or {}).get("owner", ""), dict(view.tags or {}),
    )  # fmt: skip


def _service(store: Any, service: Any) -> plans.ServicePlan:
    return plans.ServicePlan(
        service.name,
        tuple(_reference(p) for p in service.feature_view_projections),
        service.description or "", service.owner or "", dict(service.tags or {}),
        _logging(store, service),
    )  # fmt: skip


def _logging(store: Any, service: Any) -> plans.LoggingPlan | None:
    config = service.logging_config
    if config is None:
        return None
    place, rate = config.destination, float(config.sample_rate)
    if not isinstance(place, FileLoggingDestination) or place.partition_by:
        raise DefinitionError(
            f"feature service {service.name!r}",
            "its vectors are to be logged to what is no plain folder",
            "Use LoggingConfig(destination=FileLoggingDestination(path=...)) without partition_by",
        )
    if not 0 <= rate <= 1:
        raise DefinitionError(
            f"feature service {service.name!r}",
            f"the sample rate of its logging is {rate:g}",
            "It is the share of requests that are logged, 0 to 1",
        )
    return plans.LoggingPlan(_absolute(store, place.path), rate, place.s3_endpoint_override or "")


def _reference(projection: Any) -> plans.FeatureRefPlan:
    return plans.FeatureRefPlan(
        projection.name,
        tuple(f.name for f in projection.features),
        projection.name_alias or "",
        dict(projection.join_key_map or {}),
    )


def _entity(entity: Entity) -> plans.EntityPlan:
    return plans.EntityPlan(
        entity.name, entity.join_key, entity.value_type.name, entity.description or "",
        entity.owner or "", dict(entity.tags or {}),
    )  # fmt: skip


def _field(field: Any) -> plans.FieldPlan:
    return plans.FieldPlan(
        field.name, field.dtype.to_value_type().name, field.description or "",
        dict(field.tags or {}),
    )  # fmt: skip


def _us(delta: timedelta | None) -> int | None:
    return None if delta is None else delta // timedelta(microseconds=1)


def _absolute(store: Any, path: str) -> str:
    if "://" in path:
        return path
    return str((Path(store.repo_path or ".") / path).resolve())


def _redis_url(online_store: Any) -> str:
    text = str(getattr(online_store, "connection_string", "") or "")
    return text if "://" in text or not text else f"redis://{text}"


def main() -> None:
    """Write the catalogue of the repository `argv[1]` to the file `argv[2]`."""
    repo, target = Path(sys.argv[1]), Path(sys.argv[2])
    # Feast's registry names what functions use of the project's other modules.
    sys.path.insert(0, str(repo))
    catalog = build(FeatureStore(repo_path=str(repo)))
    temporary = target.with_suffix(".new")
    temporary.touch(mode=0o600)
    temporary.write_bytes(plans.encode(catalog))
    temporary.replace(target)


if __name__ == "__main__":
    main()
