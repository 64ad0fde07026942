"""Views of Kafka topics: windows that slide with the clock, and the latest event of a plane.

A window moves on in hops: here none is set, so that each window gets the longest usual step that
is at most a sixtieth of it (a minute for an hour, an hour for a week).
"""

from datetime import timedelta

import pandas as pd
from entities import carrier, dest, origin, plane
from feast import Field, StreamFeatureView
from feast.aggregation import Aggregation
from feast.stream_feature_view import stream_feature_view
from feast.types import Float64, Int64, PrimitiveFeastType, String
from sources import arrivals, departures

#: What is computed over each window: name, function, column, type, description, tags.
Measure = tuple[str, str, str, PrimitiveFeastType, str, dict[str, str]]

WINDOWS = {
    "1h": timedelta(hours=1),
    "6h": timedelta(hours=6),
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
}

OF_DEPARTURES: list[Measure] = [
    ("departures", "count", "flight_id", Int64, "Flights that left or were cancelled", {}),
    ("mean_dep_delay", "mean", "dep_delay", Float64, "Mean departure delay, minutes", {}),
    ("max_dep_delay", "max", "dep_delay", Int64, "Greatest departure delay, minutes", {}),
    ("cancelled", "sum", "cancelled", Int64, "Flights cancelled", {"min": "0"}),
]

OF_ARRIVALS: list[Measure] = [
    ("arrivals", "count", "flight_id", Int64, "Flights that arrived", {}),
    ("mean_arr_delay", "mean", "arr_delay", Float64, "Mean arrival delay, minutes", {}),
    ("max_arr_delay", "max", "arr_delay", Int64, "Greatest arrival delay, minutes", {}),
    ("mean_air_time", "mean", "air_time", Float64, "Mean time in the air, minutes", {"min": "0"}),
]


def feature_name(subject: str, measure: str, window: str) -> str:
    """Names say whose measure it is, so that views can be read together by short names."""
    return f"{subject}_{measure}_{window}"


def aggregations(subject: str, measures: list[Measure], windows: list[str]) -> list[Aggregation]:
    return [
        Aggregation(
            name=feature_name(subject, measure, window),
            function=function,
            column=column,
            time_window=WINDOWS[window],
        )
        for window in windows
        for measure, function, column, *_ in measures
    ]


def fields(subject: str, measures: list[Measure], windows: list[str]) -> list[Field]:
    return [
        Field(
            name=feature_name(subject, measure, window),
            dtype=dtype,
            description=f"{description}, in the last {window}",
            tags=tags,
        )
        for window in windows
        for measure, _, _, dtype, description, tags in measures
    ]


origin_departures = StreamFeatureView(
    name="origin_departures",
    description="How an airport's departures have been going",
    entities=[origin],
    source=departures,
    timestamp_field="event_timestamp",
    aggregations=aggregations("origin", OF_DEPARTURES, ["1h", "6h", "24h", "7d"]),
    schema=fields("origin", OF_DEPARTURES, ["1h", "6h", "24h", "7d"]),
    # Nothing leaves New York for up to six and a half hours of the night, and less than that
    # passes without an arrival; only the blizzard of 9 February stops them for longer.
    tags={"owner": "operations@flights.example", "freshness_slo": "7h"},
)

carrier_departures = StreamFeatureView(
    name="carrier_departures",
    description="How an airline's departures have been going, from all three airports",
    entities=[carrier],
    source=departures,
    timestamp_field="event_timestamp",
    aggregations=aggregations("carrier", OF_DEPARTURES, ["1h", "6h", "24h", "7d"]),
    schema=fields("carrier", OF_DEPARTURES, ["1h", "6h", "24h", "7d"]),
    tags={"owner": "operations@flights.example", "freshness_slo": "7h"},
)

route_arrivals = StreamFeatureView(
    name="route_arrivals",
    description="How the flights of a route have been arriving",
    entities=[origin, dest],
    source=arrivals,
    timestamp_field="event_timestamp",
    aggregations=aggregations("route", OF_ARRIVALS, ["24h", "7d"]),
    schema=fields("route", OF_ARRIVALS, ["24h", "7d"]),
    tags={"owner": "operations@flights.example", "freshness_slo": "7h"},
)


@stream_feature_view(
    description="The last flight that a plane has finished",
    entities=[plane],
    ttl=timedelta(days=3),
    source=arrivals,
    timestamp_field="event_timestamp",
    mode="pandas",
    schema=[
        Field(name="last_origin", dtype=String, description="Where it came from"),
        Field(name="last_dest", dtype=String, description="Where it is now"),
        Field(
            name="last_arr_delay",
            dtype=Int64,
            description="How late it arrived, minutes",
            tags={"min": "-120", "max": "1440"},
        ),
        Field(
            name="last_air_time",
            dtype=Int64,
            description="Time in the air, minutes",
            tags={"min": "10", "max": "900"},
        ),
    ],
    tags={"owner": "fleet@flights.example", "freshness_slo": "7h", "max_null_ratio": "0.3"},
)
def plane_last_flight(events: pd.DataFrame) -> pd.DataFrame:
    """A plane's last airports are features, not keys: they need names of their own."""
    return events.rename(
        columns={
            "origin": "last_origin",
            "dest": "last_dest",
            "arr_delay": "last_arr_delay",
            "air_time": "last_air_time",
        }
    )
