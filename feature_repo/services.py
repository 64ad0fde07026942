"""What a model or a screen reads in one request."""

from batch_views import origin_weather, plane_register
from feast import FeatureService
from on_demand_views import delay_context, schedule
from stream_views import (
    carrier_departures,
    origin_departures,
    plane_last_flight,
    route_arrivals,
)

departure_delay_v1 = FeatureService(
    name="departure_delay_v1",
    description="All that the model needs to say, an hour ahead, if a flight will arrive late",
    owner="models@flights.example",
    features=[
        origin_departures,
        carrier_departures,
        route_arrivals,
        plane_last_flight,
        origin_weather,
        plane_register,
        schedule,
        delay_context,
    ],
)

airport_board = FeatureService(
    name="airport_board",
    description="What a screen in the terminal shows about its airport",
    owner="operations@flights.example",
    features=[
        origin_departures[
            [
                "origin_departures_1h",
                "origin_mean_dep_delay_1h",
                "origin_max_dep_delay_1h",
                "origin_cancelled_1h",
            ]
        ],
        origin_weather[["temp", "wind_speed", "precip", "visib"]],
    ],
)
