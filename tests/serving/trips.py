"""Copied as `features.py` into repositories, not imported: one view read by several keys, and
functions over times and keys."""

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
    StreamFeatureView,
    ValueType,
)
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int32, Int64, String, UnixTimestamp

place = Entity(name="place", join_keys=["place_id"], value_type=ValueType.INT64)
weather = FeatureView(
    name="weather",
    entities=[place],
    ttl=timedelta(0),
    schema=[
        Field(name="place_id", dtype=Int64),
        Field(name="temp", dtype=Float64),
        Field(name="hits", dtype=Int64),
        Field(name="seen", dtype=UnixTimestamp),
    ],
    source=FileSource(
        name="weather", path="data/weather.parquet", timestamp_field="event_timestamp"
    ),
)
# A stream view that is pushed to, and whose table has other names.
visits = StreamFeatureView(
    name="visits",
    entities=[place],
    ttl=timedelta(0),
    schema=[Field(name="place_id", dtype=Int64), Field(name="people", dtype=Int64)],
    source=PushSource(
        name="visits_push",
        batch_source=FileSource(
            name="visits_table",
            path="data/visits.parquet",
            timestamp_field="event_timestamp",
            field_mapping={"PLACE": "place_id", "PAX": "people"},
        ),
    ),
)
trip = RequestSource(
    name="trip",
    schema=[Field(name="leaves", dtype=UnixTimestamp), Field(name="amount", dtype=Float64)],
)


@on_demand_feature_view(
    sources=[weather, trip], mode="python", schema=[Field(name="days", dtype=Int64)]
)
def by_request(inputs):
    pairs = zip(inputs["leaves"], inputs["seen"], strict=True)
    return {"days": [None if seen is None else (leaves - seen).days for leaves, seen in pairs]}


@on_demand_feature_view(
    sources=[weather],
    mode="python",
    schema=[
        Field(name="next_day", dtype=UnixTimestamp),
        Field(name="label", dtype=String),
        Field(name="filled", dtype=Int64),
    ],
)
def by_moment(inputs):
    from datetime import timedelta

    for i, hits in enumerate(inputs["hits"]):
        inputs["hits"][i] = 0 if hits is None else hits
    return {
        "next_day": [None if t is None else t + timedelta(days=1) for t in inputs["seen"]],
        # Where Feast infers types, keys are not there.
        "label": [f"place {place}" for place in inputs.get("place_id", inputs["hits"])],
        "filled": inputs["hits"],
    }


@on_demand_feature_view(
    sources=[weather],
    mode="pandas",
    schema=[
        Field(name="year", dtype=Int32),
        Field(name="week_later", dtype=UnixTimestamp),
        Field(name="twice", dtype=Int64),
    ],
)
def by_moments(frame: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    frame["year"] = frame["seen"].dt.year
    frame["week_later"] = frame["seen"] + pd.Timedelta(days=7)
    frame["twice"] = frame["hits"] * 2
    return frame


trips = FeatureService(
    name="trips",
    features=[
        weather.with_name("origin").with_join_key_map({"place_id": "origin_id"}),
        weather.with_name("goal").with_join_key_map({"place_id": "goal_id"}),
    ],
)
by_another_key = FeatureService(
    name="by_another_key",
    features=[weather[["temp"]].with_name("origin").with_join_key_map({"place_id": "origin_id"}),
              by_moments],
)  # fmt: skip
computed = FeatureService(name="computed", features=[by_request, by_moment, by_moments, weather])
