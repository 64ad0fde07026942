"""Views of data at rest: `headwater materialize` loads their latest rows."""

from datetime import timedelta

from entities import origin, plane
from feast import FeatureView, Field
from feast.types import Float64, Int64, String
from sources import planes, weather

origin_weather = FeatureView(
    name="origin_weather",
    description="The last full hour's weather at the origin",
    entities=[origin],
    ttl=timedelta(hours=3),
    source=weather,
    schema=[
        Field(
            name="temp",
            dtype=Float64,
            description="Temperature, °F",
            tags={"min": "-20", "max": "115"},
        ),
        Field(
            name="humid",
            dtype=Float64,
            description="Relative humidity, %",
            tags={"min": "0", "max": "100"},
        ),
        Field(
            name="wind_dir",
            dtype=Int64,
            description="Wind direction, degrees",
            tags={"min": "0", "max": "360"},
        ),
        Field(
            name="wind_speed",
            dtype=Float64,
            description="Wind speed, miles per hour",
            tags={"min": "0", "max": "100"},
        ),
        Field(
            name="wind_gust",
            dtype=Float64,
            description="Gust speed, miles per hour; null when there were none",
            tags={"min": "0", "max": "150", "max_null_ratio": "0.95"},
        ),
        Field(
            name="precip",
            dtype=Float64,
            description="Precipitation, inches",
            tags={"min": "0", "max": "4"},
        ),
        Field(
            name="pressure",
            dtype=Float64,
            description="Pressure at sea level, millibars",
            tags={"min": "940", "max": "1070", "max_null_ratio": "0.2"},
        ),
        Field(
            name="visib",
            dtype=Float64,
            description="Visibility, miles",
            tags={"min": "0", "max": "10"},
        ),
    ],
    tags={
        "owner": "weather@flights.example",
        "freshness_slo": "3h",
        "max_null_ratio": "0.05",
    },
)

plane_register = FeatureView(
    name="plane_register",
    description="What kind of aircraft it is; one in seven flights has one that is not registered",
    entities=[plane],
    ttl=timedelta(0),
    source=planes,
    schema=[
        Field(
            name="year_built",
            dtype=Int64,
            description="Year of manufacture",
            tags={"min": "1950", "max": "2013"},
        ),
        Field(name="manufacturer", dtype=String, description="Who built it"),
        Field(
            name="engine",
            dtype=String,
            description="Kind of engine",
            tags={"categories": "Turbo-fan,Turbo-jet,Turbo-prop,Turbo-shaft,Reciprocating,4 Cycle"},
        ),
        Field(name="seats", dtype=Int64, description="Seats", tags={"min": "1", "max": "500"}),
    ],
    tags={"owner": "fleet@flights.example", "max_null_ratio": "0.25"},
)
