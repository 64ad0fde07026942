"""Where data comes from: two Kafka topics, two Parquet files, and the request itself."""

from feast import Field, FileSource, KafkaSource, RequestSource
from feast.data_format import DeltaFormat, JsonFormat, ParquetFormat
from feast.types import Int64

KAFKA = "127.0.0.1:9092"  # KAFKA_BOOTSTRAP_SERVERS wins

departures = KafkaSource(
    name="departures",
    description="A flight has left, or was cancelled when it should have; known at that moment",
    kafka_bootstrap_servers=KAFKA,
    topic="departures",
    timestamp_field="event_timestamp",
    message_format=JsonFormat(
        schema_json="flight_id string, carrier string, tailnum string, origin string, dest string, "
        "dep_delay bigint, cancelled bigint, event_timestamp timestamp"
    ),
    batch_source=FileSource(
        name="departures_log",
        description="Every departure event so far: the offline log, written by the ingest worker",
        path="data/log/departures",
        file_format=DeltaFormat(),
        timestamp_field="event_timestamp",
    ),
)

arrivals = KafkaSource(
    name="arrivals",
    description="A flight has arrived at its destination; known at that moment",
    kafka_bootstrap_servers=KAFKA,
    topic="arrivals",
    timestamp_field="event_timestamp",
    message_format=JsonFormat(
        schema_json="flight_id string, carrier string, tailnum string, origin string, dest string, "
        "arr_delay bigint, air_time bigint, event_timestamp timestamp"
    ),
    batch_source=FileSource(
        name="arrivals_log",
        description="Every arrival event so far: the offline log, written by the ingest worker",
        path="data/log/arrivals",
        file_format=DeltaFormat(),
        timestamp_field="event_timestamp",
    ),
)

weather = FileSource(
    name="weather",
    description="Hourly observations at the three origins, each known when its hour is over",
    path="data/weather.parquet",
    file_format=ParquetFormat(),
    timestamp_field="event_timestamp",
)

planes = FileSource(
    name="planes",
    description="The register of aircraft at the start of the year",
    path="data/planes.parquet",
    file_format=ParquetFormat(),
    timestamp_field="event_timestamp",
)

timetable = RequestSource(
    name="timetable",
    description="When the flight is to leave, in New York's local time",
    schema=[
        Field(name="sched_hour", dtype=Int64, description="0 to 23"),
        Field(name="sched_weekday", dtype=Int64, description="1 (Monday) to 7 (Sunday)"),
    ],
)
