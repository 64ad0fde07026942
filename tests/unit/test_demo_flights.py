"""The demo's data: times, nulls and messages, checked against the package's own columns."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from headwater.demo import flights as demo
from headwater.errors import HeadwaterError

NOW = datetime(2026, 3, 4, 15, 30, tzinfo=UTC)
HOUR, WEEK = timedelta(hours=1), timedelta(weeks=1)


@pytest.fixture(scope="module")
def flights() -> demo.Flights:
    return demo.load(NOW)


@pytest.fixture(scope="module")
def raw(flights: demo.Flights) -> pa.Table:
    """The package's own flights, with the id that the demo gives to each."""
    options = pyarrow.csv.ConvertOptions(null_values=["NA", ""], strings_can_be_null=True)
    archive = ZipFile(demo._data_directory() / "flights.csv.zip")
    with archive, archive.open("flights.csv") as file:
        table = pyarrow.csv.read_csv(file, convert_options=options).combine_chunks()
    days = {
        (month, day): datetime(2013, month, day, tzinfo=UTC) + flights.shift
        for month in range(1, 13)
        for day in range(1, 32)
        if month not in (2, 4, 6, 9, 11) or day <= (28 if month == 2 else 30)
    }
    columns = (table[name].to_pylist() for name in ("carrier", "flight", "origin", "month", "day"))
    ids = [
        f"{carrier}{flight}-{origin}-{days[month, day]:%Y%m%d}"
        for carrier, flight, origin, month, day in zip(*columns, strict=True)
    ]
    return table.append_column("flight_id", pa.array(ids))


def joined(table: pa.Table, other: pa.Table, *names: str) -> pa.Table:
    """Columns of `other` beside those of `table`, by `flight_id`."""
    found = pc.index_in(table["flight_id"], other["flight_id"])
    assert found.null_count == 0
    columns = other.select(names).take(found)
    for name in names:
        table = table.append_column(f"other_{name}", columns[name])
    return table


def row(table: pa.Table, flight_id: str) -> dict[str, object]:
    (found,) = table.filter(pc.equal(table["flight_id"], flight_id)).to_pylist()
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    "now",
    [
        datetime(2013, 12, 31, tzinfo=UTC),
        datetime(2013, 12, 31, 0, 0, 1, tzinfo=UTC),
        datetime(2012, 2, 29, 12, tzinfo=UTC),
        NOW,
    ],
)
def test_now_is_in_the_last_week_that_has_weather(now: datetime) -> None:
    moved = demo.load(now)
    end = moved.weather["event_timestamp"][-1].as_py()
    assert end - WEEK < now <= end
    assert moved.shift % WEEK == timedelta(0)
    _, future = demo.split(moved.departures, now)
    assert len(future) > 500


def test_every_table_is_in_the_order_of_its_event_times(flights: demo.Flights) -> None:
    for table in (flights.departures, flights.arrivals, flights.weather, flights.labels):
        assert (np.diff(table["event_timestamp"].cast(pa.int64()).to_numpy()) >= 0).all()


def test_known_flights_left_and_arrived_when_they_did(flights: demo.Flights) -> None:
    day = datetime(2013, 1, 1, tzinfo=UTC) + flights.shift
    flight = f"UA1545-EWR-{day:%Y%m%d}"
    left = row(flights.departures, flight)
    assert left["event_timestamp"] == day + timedelta(hours=10, minutes=17)  # 5:17 in New York
    assert (left["dep_delay"], left["cancelled"], left["tailnum"]) == (2, 0, "N14228")
    arrived = row(flights.arrivals, flight)
    assert arrived["event_timestamp"] == day + timedelta(hours=14, minutes=30)  # 8:30 in Houston
    assert (arrived["arr_delay"], arrived["air_time"], arrived["dest"]) == (11, 227, "IAH")


def test_scheduled_times_are_the_local_times_of_new_york(flights: demo.Flights) -> None:
    micros = flights.labels["event_timestamp"].cast(pa.int64()).to_numpy()
    scheduled = micros + (HOUR - flights.shift) // timedelta(microseconds=1)
    local = pc.local_timestamp(pa.array(scheduled).cast(pa.timestamp("us", "America/New_York")))
    assert pc.hour(local).equals(flights.labels["sched_hour"].combine_chunks())
    weekday = pc.day_of_week(local, count_from_zero=False)
    assert weekday.equals(flights.labels["sched_weekday"].combine_chunks())


def test_arrivals_are_at_the_local_times_of_their_destinations(
    flights: demo.Flights, raw: pa.Table
) -> None:
    arrivals = joined(flights.arrivals, raw, "arr_time")
    unshifted = arrivals["event_timestamp"].cast(pa.int64()).to_numpy() - (
        flights.shift // timedelta(microseconds=1)
    )
    zones = demo._time_zones(demo._data_directory())
    zone = np.array([zones[dest] for dest in arrivals["dest"].to_pylist()])
    wrong: list[str] = []
    for name in np.unique(zone):
        there = zone == name
        local = pc.local_timestamp(pa.array(unshifted[there]).cast(pa.timestamp("us", str(name))))
        clock = pc.hour(local).to_numpy() * 100 + pc.minute(local).to_numpy()
        differs = clock != arrivals["other_arr_time"].to_numpy()[there] % 2400
        wrong += arrivals["flight_id"].filter(pa.array(there)).filter(pa.array(differs)).to_pylist()
    # It landed at 2:03 in the night of 10 March when clocks went from 2:00 to 3:00: at 3:03.
    night = datetime(2013, 3, 9, tzinfo=UTC) + flights.shift
    assert [flight.endswith(f"{night:%Y%m%d}") for flight in wrong] == [True]


def test_every_arrival_is_after_its_departure_and_its_time_in_the_air(
    flights: demo.Flights,
) -> None:
    both = joined(flights.arrivals, flights.departures, "event_timestamp")
    took = pc.subtract(both["event_timestamp"], both["other_event_timestamp"]).cast(pa.int64())
    on_the_ground = took.to_numpy() // 60_000_000 - both["air_time"].to_numpy()
    assert (on_the_ground.min(), on_the_ground.max()) == (5, 235)


def test_a_cancelled_flight_is_known_when_it_should_have_left_and_never_arrives(
    flights: demo.Flights,
) -> None:
    departures = flights.departures
    cancelled = departures.filter(pc.equal(departures["cancelled"], 1))
    assert len(cancelled) == 8_255
    assert cancelled["dep_delay"].null_count == 8_255
    assert departures["dep_delay"].null_count == 8_255
    both = joined(cancelled, flights.labels, "event_timestamp")
    early = pc.subtract(both["event_timestamp"], both["other_event_timestamp"])
    assert pc.unique(early).to_pylist() == [HOUR]
    assert not pc.any(pc.is_in(cancelled["flight_id"], flights.arrivals["flight_id"])).as_py()


def test_only_cancelled_flights_lack_a_plane_and_no_key_of_a_view_is_null(
    flights: demo.Flights,
) -> None:
    departures, arrivals = flights.departures, flights.arrivals
    assert (len(departures), len(arrivals)) == (336_776, 327_346)
    nameless = departures.filter(departures["tailnum"].is_null())
    assert pc.unique(nameless["cancelled"]).to_pylist() == [1]
    assert [departures[name].null_count for name in ("origin", "carrier")] == [0, 0]
    assert sum(arrivals[name].null_count for name in arrivals.column_names) == 0


def test_the_label_is_an_arrival_more_than_15_minutes_late_or_unknown(
    flights: demo.Flights, raw: pa.Table
) -> None:
    labels = joined(flights.labels, raw, "arr_delay", "tailnum")
    assert len(labels) == 336_776
    assert labels["delayed"].null_count == labels["other_arr_delay"].null_count == 9_430
    late = [
        None if delay is None else delay > 15 for delay in labels["other_arr_delay"].to_pylist()
    ]
    assert labels["delayed"].to_pylist() == late
    unknown = pc.equal(labels["tailnum"], demo.UNKNOWN_PLANE)
    assert unknown.equals(labels["other_tailnum"].is_null())


def test_a_label_is_asked_for_before_its_flight_is_known(flights: demo.Flights) -> None:
    both = joined(flights.departures, flights.labels, "event_timestamp")
    ahead = pc.subtract(both["event_timestamp"], both["other_event_timestamp"]).cast(pa.int64())
    assert pc.min(ahead).as_py() > 0


def test_weather_is_known_when_its_hour_is_over_and_keeps_its_nulls(flights: demo.Flights) -> None:
    weather = flights.weather
    first = weather["event_timestamp"][0].as_py() - flights.shift
    assert first == datetime(2013, 1, 1, 7, tzinfo=UTC)  # observed from 1 to 2 in New York
    assert (len(weather), weather["pressure"].null_count) == (26_115, 2_729)


def test_planes_are_known_from_the_start_of_the_year(flights: demo.Flights) -> None:
    planes = flights.planes
    start = datetime(2013, 1, 1, tzinfo=UTC) + flights.shift
    assert pc.unique(planes["event_timestamp"]).to_pylist() == [start]
    assert start < flights.labels["event_timestamp"][0].as_py()
    assert (len(planes), planes["year_built"].null_count) == (3_322, 70)


def test_batch_sources_hold_what_is_known_and_later_more(
    flights: demo.Flights, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    flights.write_batch_sources(data)
    weather = pq.read_table(data / "weather.parquet")
    assert weather.schema.field("event_timestamp").type == pa.timestamp("us", tz="UTC")
    assert weather["event_timestamp"][-1].as_py() == NOW.replace(minute=0)
    assert pq.read_table(data / "planes.parquet").equals(flights.planes)
    flights.write_batch_sources(data, NOW + 2 * HOUR)
    later = pq.read_table(data / "weather.parquet")
    assert len(later) == len(weather) + 2 * 3
    assert {path.name for path in data.iterdir()} == {"weather.parquet", "planes.parquet"}


def test_a_split_puts_the_present_into_the_past(flights: demo.Flights) -> None:
    past, future = demo.split(flights.weather, NOW.replace(minute=0))
    assert past["event_timestamp"][-1].as_py() == NOW.replace(minute=0)
    assert future["event_timestamp"][0].as_py() == NOW.replace(minute=0) + HOUR
    assert len(past) + len(future) == len(flights.weather)


@pytest.mark.parametrize("topic", ["departures", "arrivals"])
def test_messages_say_what_the_rows_say(flights: demo.Flights, topic: str) -> None:
    table = getattr(flights, topic).slice(1_000, 20_000)
    sent = list(demo.messages(table, demo.TOPIC_KEYS[topic]))
    rows = table.to_pylist()
    assert len(sent) == len(rows)
    assert any(None in found.values() for found in rows) == (topic == "departures")
    for (time_us, key, value), found in zip(sent, rows, strict=True):
        moment = found["event_timestamp"]
        assert time_us == (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        assert key.decode() == "-".join(found[name] for name in demo.TOPIC_KEYS[topic])
        assert json.loads(value) == {**found, "event_timestamp": f"{moment:%Y-%m-%dT%H:%M:%SZ}"}


def test_missing_flights_are_an_error_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(HeadwaterError, match=r"pip install 'headwater\[demo\]'"):
        demo.load(NOW)
