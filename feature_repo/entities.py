"""What features are about. A route is the pair (origin, dest)."""

from feast import Entity, ValueType

OPERATIONS = "operations@flights.example"

origin = Entity(
    name="origin",
    join_keys=["origin"],
    value_type=ValueType.STRING,
    description="The airport that a flight leaves from: EWR, JFK or LGA",
    owner=OPERATIONS,
)

dest = Entity(
    name="dest",
    join_keys=["dest"],
    value_type=ValueType.STRING,
    description="The airport that a flight goes to, by its FAA code",
    owner=OPERATIONS,
)

carrier = Entity(
    name="carrier",
    join_keys=["carrier"],
    value_type=ValueType.STRING,
    description="The airline, by its two-letter code",
    owner=OPERATIONS,
)

plane = Entity(
    name="plane",
    join_keys=["tailnum"],
    value_type=ValueType.STRING,
    description="The aircraft, by its tail number",
    owner="fleet@flights.example",
)
