"""Views that are computed when they are asked for, online and offline by the same function.

A function gets and returns lists, one value a row; a value may be None. It is stored as its own
source text in the registry, so it imports what it needs and uses nothing from this module.
Feast 0.67 refuses descriptions and tags on the fields of such a view: they stand on the view.
"""

from feast import Field
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64
from sources import timetable
from stream_views import carrier_departures, origin_departures


@on_demand_feature_view(
    description="The scheduled hour as a model can use it: whether it is in the rush (1 or 0; 6 to "
    "9 and 16 to 19 on working days), and its place on a clock of 24 hours",
    sources=[timetable],
    mode="python",
    schema=[
        Field(name="is_rush_hour", dtype=Int64),
        Field(name="hour_sin", dtype=Float64),
        Field(name="hour_cos", dtype=Float64),
    ],
    tags={"owner": "models@flights.example"},
)
def schedule(inputs: dict[str, list[int | None]]) -> dict[str, list[float | int | None]]:
    import math

    rush_hours = {6, 7, 8, 9, 16, 17, 18, 19}
    hours = inputs["sched_hour"]
    angles = [None if hour is None else 2 * math.pi * hour / 24 for hour in hours]
    return {
        "is_rush_hour": [
            None if hour is None or weekday is None else int(hour in rush_hours and weekday <= 5)
            for hour, weekday in zip(hours, inputs["sched_weekday"], strict=True)
        ],
        "hour_sin": [None if angle is None else math.sin(angle) for angle in angles],
        "hour_cos": [None if angle is None else math.cos(angle) for angle in angles],
    }


@on_demand_feature_view(
    description="Whether the airport or the airline is the trouble, and whether it gets worse: the "
    "airport's mean delay of the last hour less that of 24 hours; that less the airline's; and the "
    "share of the airport's flights of 24 hours that were cancelled",
    sources=[
        origin_departures[
            [
                "origin_departures_24h",
                "origin_cancelled_24h",
                "origin_mean_dep_delay_1h",
                "origin_mean_dep_delay_24h",
            ]
        ],
        carrier_departures[["carrier_mean_dep_delay_24h"]],
    ],
    mode="python",
    schema=[
        Field(name="origin_delay_trend", dtype=Float64),
        Field(name="origin_over_carrier_delay", dtype=Float64),
        Field(name="origin_cancelled_ratio", dtype=Float64),
    ],
    tags={"owner": "models@flights.example"},
)
def delay_context(
    inputs: dict[str, list[float | None]],
) -> dict[str, list[float | None]]:
    def less(a: float | None, b: float | None) -> float | None:
        return None if a is None or b is None else a - b

    def ratio(part: float | None, whole: float | None) -> float | None:
        return part / whole if part is not None and whole else None

    origin_day = inputs["origin_mean_dep_delay_24h"]
    return {
        "origin_delay_trend": list(map(less, inputs["origin_mean_dep_delay_1h"], origin_day)),
        "origin_over_carrier_delay": list(
            map(less, origin_day, inputs["carrier_mean_dep_delay_24h"])
        ),
        "origin_cancelled_ratio": list(
            map(ratio, inputs["origin_cancelled_24h"], inputs["origin_departures_24h"])
        ),
    }
