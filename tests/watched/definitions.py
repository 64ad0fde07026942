"""Copied as `features.py` into the Feast repository of the tests; not imported by them."""

from datetime import timedelta

from feast import (
    Entity,
    FeatureService,
    FeatureView,
    Field,
    FileSource,
    KafkaSource,
    RequestSource,
    StreamFeatureView,
    ValueType,
)
from feast.aggregation import Aggregation
from feast.data_format import DeltaFormat, JsonFormat
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
clicks = KafkaSource(
    name="clicks", topic="watched-clicks", kafka_bootstrap_servers="127.0.0.1:1",
    timestamp_field="at", watermark_delay_threshold=timedelta(hours=1),
    message_format=JsonFormat("user_id bigint, amount double, at timestamp"),
    batch_source=FileSource(name="clicks_log", path="data/log/clicks",
                            file_format=DeltaFormat(), timestamp_field="at"),
)  # fmt: skip
spending = StreamFeatureView(
    name="spending", entities=[user], source=clicks, timestamp_field="at",
    description="What a user did in the last hour",
    schema=[Field(name="user_id", dtype=Int64), Field(name="clicks_1h", dtype=Int64),
            Field(name="spent_1h", dtype=Float64)],
    aggregations=[
        Aggregation(column="amount", function="count", time_window=timedelta(hours=1),
                    name="clicks_1h"),
        Aggregation(column="amount", function="sum", time_window=timedelta(hours=1),
                    name="spent_1h"),
    ],
)  # fmt: skip


def source(name: str) -> FileSource:
    return FileSource(name=name, path=f"data/{name}.parquet", timestamp_field="at")


profiles = FeatureView(
    name="profiles", entities=[user], ttl=timedelta(hours=3), source=source("profiles"),
    schema=[Field(name="user_id", dtype=Int64), Field(name="city", dtype=String),
            Field(name="age", dtype=Int64, tags={"max_null_ratio": "0.1"})],
)  # fmt: skip
forgotten = FeatureView(
    name="forgotten",
    entities=[user],
    ttl=timedelta(0),
    source=source("forgotten"),
    schema=[Field(name="user_id", dtype=Int64), Field(name="shoe_size", dtype=Float64)],
)
basket = RequestSource(name="basket", schema=[Field(name="total", dtype=Float64)])


@on_demand_feature_view(
    sources=[spending, basket], mode="python", schema=[Field(name="total_share", dtype=Float64)]
)
def share(inputs):
    pairs = zip(inputs["spent_1h"], inputs["total"], strict=True)
    return {"total_share": [None if s is None else t / (s + t) for s, t in pairs]}


risk = FeatureService(name="risk", features=[spending, profiles[["age"]]])
offers = FeatureService(name="offers", features=[share])
