"""Copied as `features.py` into a repository: names and keys that few think of; not imported."""

from datetime import timedelta

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
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Bool, Bytes, Float64, Int32, Int64, String, UnixTimestamp, Uuid

LONG = "v" * 200


def source(name: str) -> FileSource:
    return FileSource(name=name, path=f"data/{name}.parquet", timestamp_field="event_timestamp")


user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
merchant = Entity(name="mer-chant", join_keys=["merchant-id"], value_type=ValueType.INT32)
verified = Entity(name="verified", join_keys=["verified"], value_type=ValueType.BOOL)
session = Entity(name="session", join_keys=["session_id"], value_type=ValueType.STRING)
order = Entity(name="order", join_keys=["order_id"], value_type=ValueType.UUID)
hour = Entity(name="hour", join_keys=["hour"], value_type=ValueType.UNIX_TIMESTAMP)
device = Entity(name="device", join_keys=["mac"], value_type=ValueType.BYTES)

dashed = FeatureView(
    name="user-stats-v2",
    entities=[user],
    ttl=timedelta(0),
    schema=[
        Field(name="user_id", dtype=Int64),
        Field(name="clicks-7d", dtype=Int64),
        Field(name="7_day_rate", dtype=Float64),
        Field(name="é", dtype=String),
        Field(name="a__b", dtype=Int64),
    ],
    source=PushSource(name="user-push", batch_source=source("user-stats")),
)
long_name = FeatureView(
    name=LONG,
    entities=[user],
    ttl=timedelta(0),
    schema=[Field(name="user_id", dtype=Int64), Field(name="f" * 200, dtype=Int64)],
    source=source("long"),
)
three_keys = FeatureView(
    name="1_three-keys",
    entities=[merchant, verified, session],
    ttl=timedelta(0),
    schema=[
        Field(name="merchant-id", dtype=Int32),
        Field(name="verified", dtype=Bool),
        Field(name="session_id", dtype=String),
        Field(name="w", dtype=Float64),
    ],
    source=source("three-keys"),
)
orders = FeatureView(
    name="orders_",
    entities=[order, hour],
    ttl=timedelta(0),
    schema=[
        Field(name="order_id", dtype=Uuid),
        Field(name="hour", dtype=UnixTimestamp),
        Field(name="sum", dtype=Float64),
    ],
    source=source("orders"),
)
devices = FeatureView(
    name="devices",
    entities=[device],
    ttl=timedelta(0),
    schema=[Field(name="mac", dtype=Bytes), Field(name="seen", dtype=Int64)],
    source=source("devices"),
)
everywhere = FeatureView(
    name="every-where",
    entities=[],
    ttl=timedelta(0),
    schema=[Field(name="rate", dtype=Float64)],
    source=source("everywhere"),
)
amount = RequestSource(name="amount", schema=[Field(name="amount-now", dtype=Float64)])


@on_demand_feature_view(
    sources=[dashed, amount], mode="python", schema=[Field(name="per-click", dtype=Float64)]
)
def on_demand__1(inputs):
    pairs = zip(inputs["amount-now"], inputs["clicks-7d"], strict=True)
    return {"per-click": [None if c is None else a / c for a, c in pairs]}


service = FeatureService(name="service-v1.2", features=[dashed, long_name])
