"""Copied as `features.py` into the Feast repositories of the tests; not imported by them."""

from datetime import timedelta

import pandas as pd
from feast import (
    Entity,
    FeatureService,
    FeatureView,
    Field,
    FileSource,
    PushSource,
    RequestSource,
    ValueType,
)
from feast.feature_logging import LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import (
    Array,
    Bool,
    Bytes,
    Decimal,
    Float32,
    Float64,
    ImageBytes,
    Int32,
    Int64,
    Json,
    Map,
    PdfBytes,
    ScalarMap,
    Set,
    String,
    Struct,
    TimeUuid,
    UnixTimestamp,
    Uuid,
    ZonedTimestamp,
)

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
session = Entity(name="session", join_keys=["session_id"], value_type=ValueType.STRING)


def source(name: str) -> FileSource:
    return FileSource(name=name, path=f"data/{name}.parquet", timestamp_field="event_timestamp")


numbers = FeatureView(
    name="numbers",
    entities=[user],
    ttl=timedelta(days=1),
    schema=[
        Field(name="user_id", dtype=Int64),
        Field(name="i32", dtype=Int32),
        Field(name="i64", dtype=Int64),
        Field(name="f32", dtype=Float32),
        Field(name="f64", dtype=Float64),
        Field(name="flag", dtype=Bool),
        Field(name="seen_at", dtype=UnixTimestamp),
    ],
    source=PushSource(name="numbers_push", batch_source=source("numbers")),
)
doubles = FeatureView(
    name="doubles",
    entities=[user],
    ttl=timedelta(0),
    schema=[Field(name="user_id", dtype=Int64)]
    + [Field(name=f"d{i}", dtype=Float64) for i in range(5)],
    source=source("doubles"),
)
texts = FeatureView(
    name="texts",
    entities=[session],
    ttl=timedelta(0),
    schema=[
        Field(name="session_id", dtype=String),
        Field(name="word", dtype=String),
        Field(name="raw", dtype=Bytes),
        Field(name="words", dtype=Array(String)),
        Field(name="reals", dtype=Array(Float64)),
        Field(name="wholes", dtype=Array(Int64)),
        Field(name="flags", dtype=Array(Bool)),
        Field(name="times", dtype=Array(UnixTimestamp)),
        Field(name="labels", dtype=Map),
    ],
    source=source("texts"),
)
pairs = FeatureView(
    name="pairs",
    entities=[user, session],
    ttl=timedelta(0),
    schema=[
        Field(name="user_id", dtype=Int64),
        Field(name="session_id", dtype=String),
        Field(name="score", dtype=Float64),
    ],
    source=source("pairs"),
)
everywhere = FeatureView(
    name="everywhere",
    entities=[],
    ttl=timedelta(0),
    schema=[Field(name="rate", dtype=Float64), Field(name="day", dtype=String)],
    source=source("everywhere"),
)
device = Entity(name="device", join_keys=["mac"], value_type=ValueType.BYTES)
hour = Entity(name="hour", join_keys=["hour"], value_type=ValueType.UNIX_TIMESTAMP)
order = Entity(name="order", join_keys=["order_id"], value_type=ValueType.UUID)
odd_keys = FeatureView(
    name="odd_keys",
    entities=[device, hour, order],
    ttl=timedelta(0),
    schema=[
        Field(name="mac", dtype=Bytes),
        Field(name="hour", dtype=UnixTimestamp),
        Field(name="order_id", dtype=Uuid),
        Field(name="weight", dtype=Float64),
        Field(name="words_set", dtype=Set(String)),
        Field(name="ids", dtype=Array(Uuid)),
        Field(name="maps", dtype=Array(Map)),
        Field(name="nested", dtype=Array(Array(Int64))),
        Field(name="document", dtype=Json),
        Field(name="price", dtype=Decimal),
    ],
    source=source("odd_keys"),
)
shop = Entity(name="shop", join_keys=["shop_id"], value_type=ValueType.INT32)
shops = FeatureView(
    name="shops",
    entities=[shop],
    ttl=timedelta(0),
    schema=[
        Field(name="shop_id", dtype=Int32),
        Field(name="score", dtype=Float64),
    ],
    source=source("shops"),
)
orders = FeatureView(
    name="orders",
    entities=[session, hour],
    ttl=timedelta(days=1),
    schema=[
        Field(name="session_id", dtype=String),
        Field(name="hour", dtype=UnixTimestamp),
        Field(name="paid", dtype=Float64),
        Field(name="items", dtype=Int32),
        Field(name="note", dtype=String),
    ],
    source=source("orders"),
)
# A feature of every value type, by its name in lower case.
SCALARS = {
    "bytes": Bytes, "string": String, "int32": Int32, "int64": Int64, "double": Float64,
    "float": Float32, "bool": Bool, "unix_timestamp": UnixTimestamp, "uuid": Uuid,
    "time_uuid": TimeUuid, "decimal": Decimal,
}  # fmt: skip
SPOT = Struct({"x": Int64, "y": String})
EVERY = {
    **SCALARS,
    **{f"{name}_list": Array(kind) for name, kind in {**SCALARS, "json": Json}.items()},
    **{f"{name}_set": Set(kind) for name, kind in SCALARS.items()},
    "pdf_bytes": PdfBytes, "image_bytes": ImageBytes, "map": Map, "map_list": Array(Map),
    "json": Json, "struct": SPOT, "struct_list": Array(SPOT), "value_list": Array(Array(Int64)),
    "value_set": Set(Array(Int64)), "scalar_map": ScalarMap, "zoned_timestamp": ZonedTimestamp,
}  # fmt: skip
every_type = FeatureView(
    name="every_type",
    entities=[user],
    ttl=timedelta(0),
    schema=[Field(name="user_id", dtype=Int64)]
    + [Field(name=name, dtype=kind) for name, kind in EVERY.items()],
    source=source("every_type"),
)
basket = RequestSource(name="basket", schema=[Field(name="amount", dtype=Float64)])


@on_demand_feature_view(
    sources=[doubles, basket], mode="python", schema=[Field(name="ratio", dtype=Float64)]
)
def by_lists(inputs):
    pairs = zip(inputs["d0"], inputs["amount"], strict=True)
    return {"ratio": [None if d is None else d / a for d, a in pairs]}


@on_demand_feature_view(
    sources=[doubles, basket], mode="pandas", schema=[Field(name="total", dtype=Float64)]
)
def by_frame(inputs: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame({"total": inputs["d1"] + inputs["amount"]})


@on_demand_feature_view(
    sources=[doubles], mode="python", singleton=True, schema=[Field(name="twice", dtype=Float64)]
)
def by_row(inputs):
    return {"twice": None if inputs["d2"] is None else 2 * inputs["d2"]}


@on_demand_feature_view(
    sources=[doubles, basket], mode="python", schema=[Field(name="broken", dtype=Float64)]
)
def by_mistake(inputs):
    return {"broken": [1 / (amount - 13) for amount in inputs["amount"]]}


@on_demand_feature_view(
    sources=[numbers, doubles], mode="python", schema=[Field(name="gap", dtype=Float64)]
)
def by_views(inputs):
    pairs = zip(inputs["f64"], inputs["d0"], strict=True)
    return {"gap": [None if None in pair else pair[0] - pair[1] for pair in pairs]}


@on_demand_feature_view(
    sources=[numbers, texts, basket],
    mode="pandas",
    schema=[Field(name="more", dtype=Float64), Field(name="wordy", dtype=String)],
)
def by_frames(inputs: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    more, wordy = inputs["f64"] * 2 + inputs["amount"], inputs["word"].fillna("") + "!"
    return pd.DataFrame({"more": more, "wordy": wordy})


everything = FeatureService(name="everything", features=[numbers, doubles, texts, pairs])
renamed = FeatureService(
    name="renamed",
    features=[doubles[["d1", "d0"]].with_name("other"), numbers[["i64"]]],
    logging_config=LoggingConfig(
        destination=FileLoggingDestination(path="data/renamed-log"), sample_rate=0.5
    ),
)
