"""What a Feast project defines, as frozen plans that know nothing of Feast.

Everything that serves, ingests or builds training sets learns about views from here and from
nowhere else. `headwater.catalog_feast` makes a `Catalog` from a Feast registry; it is the only
reader of Feast objects, since importing Feast takes seconds.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

ViewKind = Literal["row", "window"]
ColumnKind = Literal["int", "float", "object"]
MessageFormat = Literal["json", "avro", "proto"]
Framing = Literal["auto", "none"]
CodeMode = Literal["python", "pandas"]

#: Feast value types whose values fit eight bytes, by how they are computed with.
#: A UNIX_TIMESTAMP is held in microseconds; Feast's own unit on the wire is the second.
COLUMN_KINDS: dict[str, ColumnKind] = {
    "INT32": "int",
    "INT64": "int",
    "BOOL": "int",
    "UNIX_TIMESTAMP": "int",
    "FLOAT": "float",
    "DOUBLE": "float",
}


def column_kind(value_type: str) -> ColumnKind:
    """How values of a Feast value type (`"INT64"`, `"STRING_LIST"`, …) are computed with."""
    return COLUMN_KINDS.get(value_type, "object")


class FieldPlan(msgspec.Struct, frozen=True, omit_defaults=True):
    """A named, typed column; `type` is the name of a Feast `ValueType`."""

    name: str
    type: str
    description: str = ""
    tags: dict[str, str] = {}


class JoinKeyPlan(msgspec.Struct, frozen=True, omit_defaults=True):
    """One part of an entity key: the column that holds it and the entity it comes from."""

    name: str
    type: str
    entity: str = ""


class EntityPlan(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    join_key: str
    type: str
    description: str = ""
    owner: str = ""
    tags: dict[str, str] = {}


class CodePlan(msgspec.Struct, frozen=True, omit_defaults=True):
    """A function from Feast's registry: its pickled payload and its source text, both with what it
    uses of the project's own modules."""

    name: str
    mode: CodeMode
    body: bytes
    text: str = ""


class BatchSourcePlan(msgspec.Struct, frozen=True, omit_defaults=True):
    """Rows at rest: files, a Delta table, or a query over `tables`. `path` is absolute or a URI.

    `field_mapping` maps column names in the source to names in the view.
    """

    name: str
    format: Literal["parquet", "delta", "csv", "query"]
    path: str
    timestamp_field: str
    created_field: str = ""
    field_mapping: dict[str, str] = {}
    query: str = ""
    tables: tuple[BatchSourcePlan, ...] = ()
    s3_endpoint: str = ""


class StreamSourcePlan(msgspec.Struct, frozen=True, omit_defaults=True):
    """A Kafka source. `fields` are the message's columns after decoding, before `field_mapping`.

    `avro_schema` is the reader's schema. `proto_class` is the message's full name in
    `proto_descriptors`, a serialized FileDescriptorSet. `framing` "none": a leading zero byte is
    data and begins no schema id.
    `log_path` is the Delta table that holds the source's events (the offline log);
    `history` the batch source that counts before the log's first event time, if there is one.
    """

    name: str
    topics: tuple[str, ...]
    bootstrap_servers: str
    format: MessageFormat
    fields: tuple[FieldPlan, ...]
    timestamp_field: str
    created_field: str = ""
    field_mapping: dict[str, str] = {}
    watermark_delay_us: int | None = None
    avro_schema: str = ""
    proto_class: str = ""
    proto_descriptors: bytes = b""
    framing: Framing = "auto"
    log_path: str = ""
    history: BatchSourcePlan | None = None


class PushSourcePlan(msgspec.Struct, frozen=True, omit_defaults=True):
    """A named way in for rows that a client pushes; `batch` is where offline pushes go."""

    name: str
    batch: BatchSourcePlan | None = None


class AggregationPlan(msgspec.Struct, frozen=True, omit_defaults=True):
    """One windowed feature. At time t it covers event times in [floor_hop(t - window), t].

    `window_us` None is the whole history. `function` is one of count, sum, mean, min, max, std,
    var, first, last, count_distinct, quantile, last_n, first_n; `parameter` is the quantile
    (0 < q < 1) or the n. `column` "" or "*" (count only) counts events.
    """

    name: str
    column: str
    function: str
    window_us: int | None
    hop_us: int
    parameter: float = 0.0
    column_type: str = "INT64"
    output_type: str = "INT64"

    @property
    def is_wide(self) -> bool:
        """Whether it adds whole numbers whose sum may not fit into int64.

        Of a narrower column it would take 2**31 events.
        """
        return self.function in {"sum", "mean"} and self.column_type in {"INT64", "UNIX_TIMESTAMP"}


class ViewPlan(msgspec.Struct, frozen=True, omit_defaults=True):
    """A feature view, batch or stream.

    `join_keys` are in the order of their names (Feast's order), and empty for a view without
    entities. `features` excludes the join keys. A windowed view has one `AggregationPlan` for
    each feature, in the order of `features`.
    """

    name: str
    kind: ViewKind
    join_keys: tuple[JoinKeyPlan, ...]
    features: tuple[FieldPlan, ...]
    ttl_us: int = 0
    stream: str = ""
    push: str = ""
    batch: BatchSourcePlan | None = None
    aggregations: tuple[AggregationPlan, ...] = ()
    udf: CodePlan | None = None
    online: bool = True
    offline: bool = False
    description: str = ""
    owner: str = ""
    tags: dict[str, str] = {}

    @property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.features)

    @property
    def schema_fingerprint(self) -> bytes:
        """Three bytes that name the packed layout: the features' names and types, in order."""
        text = "\n".join(f"{field.name} {field.type}" for field in self.features)
        return hashlib.blake2b(text.encode(), digest_size=3).digest()

    @property
    def window_fingerprint(self) -> str:
        """Names what the state of a windowed view means; another definition has other state."""
        parts = [
            f"{a.function}({a.column}:{a.column_type},{a.parameter}) {a.window_us} {a.hop_us}"
            for a in self.aggregations
        ]
        keys = [f"{key.name}:{key.type}" for key in self.join_keys]
        # The text, since a pickled body differs from one apply to the next.
        code = (self.udf.text or self.udf.name) if self.udf else ""
        # State of before wide sums had one word for each of them.
        layout = "wide" if any(a.is_wide for a in self.aggregations) else ""
        text = "\n".join([*sorted(parts), *keys, self.stream, code, layout])
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


class FeatureRefPlan(msgspec.Struct, frozen=True, omit_defaults=True):
    """Some features of one view as a service (or an on-demand view) uses them.

    `view` names a `ViewPlan` or an `OnDemandPlan`; `alias` is the name that requests and full
    feature names use; `join_key_map` maps the view's join keys to names in the request.
    """

    view: str
    features: tuple[str, ...]
    alias: str = ""
    join_key_map: dict[str, str] = {}

    @property
    def name_to_use(self) -> str:
        return self.alias or self.view


class OnDemandPlan(msgspec.Struct, frozen=True, omit_defaults=True):
    """A transformation at request time over features of other views and request inputs.

    `singleton` (python mode): the function takes one row as a dict of values, else a dict of
    lists; pandas mode takes and returns a DataFrame. Inputs are named without their view.
    """

    name: str
    features: tuple[FieldPlan, ...]
    inputs: tuple[FeatureRefPlan, ...]
    request_fields: tuple[FieldPlan, ...]
    code: CodePlan
    singleton: bool = False
    description: str = ""
    owner: str = ""
    tags: dict[str, str] = {}

    @property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.features)


class LoggingPlan(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where vectors are logged when they are served: a folder, and the share of requests (0..1)."""

    path: str
    sample_rate: float = 1.0
    s3_endpoint: str = ""


class ServicePlan(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    features: tuple[FeatureRefPlan, ...]
    description: str = ""
    owner: str = ""
    tags: dict[str, str] = {}
    logging: LoggingPlan | None = None


class Catalog(msgspec.Struct, frozen=True, omit_defaults=True):
    """Everything one Feast project defines. `version` is a hash of the definitions.

    `redis_url` and `log_root` are what `feature_store.yaml` says; `REDIS_URL` wins over it.
    """

    project: str
    version: str
    redis_url: str
    log_root: str
    entities: dict[str, EntityPlan] = {}
    streams: dict[str, StreamSourcePlan] = {}
    push_sources: dict[str, PushSourcePlan] = {}
    views: dict[str, ViewPlan] = {}
    on_demand: dict[str, OnDemandPlan] = {}
    services: dict[str, ServicePlan] = {}

    def views_of_stream(self, stream: str) -> tuple[ViewPlan, ...]:
        """The views that read a Kafka source, in the order of their names."""
        return tuple(v for _, v in sorted(self.views.items()) if v.stream == stream)

    def views_of_push(self, push: str) -> tuple[ViewPlan, ...]:
        """The views that a push source feeds, in the order of their names."""
        return tuple(v for _, v in sorted(self.views.items()) if v.push == push)


def encode(catalog: Catalog) -> bytes:
    """JSON bytes of a catalogue; `decode` is its inverse."""
    return msgspec.json.encode(catalog)


def decode(data: bytes) -> Catalog:
    return msgspec.json.decode(data, type=Catalog)
