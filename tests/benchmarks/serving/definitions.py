"""The project that both servers run: three views of ten floats, and one of thirty windows.

`features.py` of the benchmark's Feast repositories is a copy of this file.
"""

from datetime import timedelta

from feast import Entity, FeatureView, Field, FileSource, KafkaSource, StreamFeatureView, ValueType
from feast.aggregation import Aggregation
from feast.data_format import JsonFormat
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64

customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.INT64)
source = FileSource(name="rows", path="data/rows.parquet", timestamp_field="event_timestamp")

view_0, view_1, view_2 = (
    FeatureView(
        name=f"view_{v}",
        entities=[customer],
        ttl=timedelta(days=30),
        schema=[Field(name=f"f{v}_{i}", dtype=Float64) for i in range(10)],
        source=source,
    )
    for v in range(3)
)

payments = KafkaSource(
    name="payments",
    kafka_bootstrap_servers="127.0.0.1:9092",
    topic="payments",
    timestamp_field="event_timestamp",
    message_format=JsonFormat(
        schema_json="customer_id bigint, amount double, items double, event_timestamp timestamp"
    ),
    batch_source=source,
)
MEASURES = [
    ("count", "amount"), ("sum", "amount"), ("mean", "amount"), ("min", "amount"),
    ("max", "amount"), ("std", "amount"), ("last", "amount"), ("sum", "items"),
    ("mean", "items"), ("max", "items"),
]  # fmt: skip
aggregations = [
    Aggregation(column=column, function=function, time_window=timedelta(hours=hours))
    for hours in (1, 24, 168)
    for function, column in MEASURES
]
windows = StreamFeatureView(
    name="windows",
    entities=[customer],
    schema=[
        Field(
            name=each.resolved_name(each.time_window),
            dtype=Int64 if each.function == "count" else Float64,
        )
        for each in aggregations
    ],
    source=payments,
    timestamp_field="event_timestamp",
    aggregations=aggregations,
)


@on_demand_feature_view(
    sources=[view_0], mode="python", schema=[Field(name="of_two", dtype=Float64)]
)
def made(inputs):
    return {"of_two": [a + b for a, b in zip(inputs["f0_0"], inputs["f0_1"], strict=True)]}
