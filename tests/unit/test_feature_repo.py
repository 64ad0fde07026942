"""The example catalogue, as stock Feast reads it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from math import isclose
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml

from headwater import catalog_cache
from headwater.demo import flights as demo

HERE = Path(__file__).parent
REPO = HERE.parents[1] / "feature_repo"
#: What Feast's JSON schema and its fields call the types of the demo's columns.
DDL_TYPES = {"string": "string", "bigint": "int64", "timestamp": "timestamp[us, tz=UTC]"}
FIELD_TYPES = {"String": "string", "Int64": "int64", "Float64": "double"}


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The catalogue after `feast apply` of a copy with Feast's own stores, without any data."""
    copy = tmp_path_factory.mktemp("catalogue") / "feature_repo"
    shutil.copytree(REPO, copy, ignore=shutil.ignore_patterns("data", "__pycache__"))
    config = yaml.safe_load((copy / "feature_store.yaml").read_text())
    config["online_store"] = {"type": "sqlite", "path": "data/online.db"}
    config["offline_store"] = {"type": "file"}
    (copy / "feature_store.yaml").write_text(yaml.safe_dump(config))
    description = copy.parent / "description.json"
    script = str(HERE / "describe_feature_repo.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, str(copy), str(description)],
        capture_output=True,
        text=True,
        cwd=copy.parent,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    described: dict[str, Any] = json.loads(description.read_text())
    return described | {"repo": copy}


def test_a_project_that_was_moved_is_read_where_it_is(
    catalogue: dict[str, Any], tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    for place in (catalogue["repo"], moved):
        if place == moved:
            shutil.copytree(catalogue["repo"], moved)
        plans = catalog_cache.load_own(place)
        paths = [stream.log_path for stream in plans.streams.values()]
        assert paths
        assert all(Path(path).is_relative_to(place.resolve()) for path in paths)


@pytest.fixture(scope="module")
def flights() -> demo.Flights:
    return demo.load(datetime(2026, 3, 4, 15, 30, tzinfo=UTC))


def test_each_entity_has_its_join_key(catalogue: dict[str, Any]) -> None:
    assert catalogue["entities"] == {
        "origin": "origin",
        "dest": "dest",
        "carrier": "carrier",
        "plane": "tailnum",
    }


def test_each_view_has_its_keys_source_and_number_of_features(catalogue: dict[str, Any]) -> None:
    found = {
        name: (view["keys"], view["topic"], view["batch"], len(view["features"]))
        for name, view in catalogue["views"].items()
    }
    departures, arrivals = "data/log/departures", "data/log/arrivals"
    assert found == {
        "origin_departures": (["origin"], "departures", departures, 16),
        "carrier_departures": (["carrier"], "departures", departures, 16),
        "route_arrivals": (["dest", "origin"], "arrivals", arrivals, 8),
        "plane_last_flight": (["tailnum"], "arrivals", arrivals, 4),
        "origin_weather": (["origin"], None, "data/weather.parquet", 8),
        "plane_register": (["tailnum"], None, "data/planes.parquet", 4),
    }


def test_a_windowed_view_has_one_feature_for_each_aggregation(catalogue: dict[str, Any]) -> None:
    windowed = {n: v for n, v in catalogue["views"].items() if v["aggregations"]}
    assert set(windowed) == {"origin_departures", "carrier_departures", "route_arrivals"}
    for view in windowed.values():
        assert set(view["aggregations"]) == set(view["features"])
    for name in ("origin", "carrier"):
        view = windowed[f"{name}_departures"]
        for window, seconds in {"1h": 3_600, "6h": 21_600, "24h": 86_400, "7d": 604_800}.items():
            assert _over(view, window) == {
                f"{name}_departures_{window}": (["count", "flight_id", seconds], "Int64"),
                f"{name}_mean_dep_delay_{window}": (["mean", "dep_delay", seconds], "Float64"),
                f"{name}_max_dep_delay_{window}": (["max", "dep_delay", seconds], "Int64"),
                f"{name}_cancelled_{window}": (["sum", "cancelled", seconds], "Int64"),
            }
    for window, seconds in {"24h": 86_400, "7d": 604_800}.items():
        assert _over(windowed["route_arrivals"], window) == {
            f"route_arrivals_{window}": (["count", "flight_id", seconds], "Int64"),
            f"route_mean_arr_delay_{window}": (["mean", "arr_delay", seconds], "Float64"),
            f"route_max_arr_delay_{window}": (["max", "arr_delay", seconds], "Int64"),
            f"route_mean_air_time_{window}": (["mean", "air_time", seconds], "Float64"),
        }


def test_aggregations_read_columns_that_the_events_have(
    catalogue: dict[str, Any], flights: demo.Flights
) -> None:
    for view in catalogue["views"].values():
        if view["topic"]:
            columns = getattr(flights, view["topic"]).column_names
            assert {column for _, column, _ in view["aggregations"].values()} <= set(columns)
            assert set(view["keys"]) <= set(columns)


def test_the_row_view_names_its_features_apart_from_the_keys(catalogue: dict[str, Any]) -> None:
    view = catalogue["views"]["plane_last_flight"]
    renamed = set(catalogue["renamed"])
    assert set(view["features"]) | set(view["keys"]) | {"event_timestamp"} <= renamed
    assert not {"origin", "dest"} & renamed


def test_events_have_the_columns_and_types_of_the_kafka_schema(
    catalogue: dict[str, Any], flights: demo.Flights
) -> None:
    for view in catalogue["views"].values():
        if view["topic"]:
            schema = dict(column.split() for column in view["message"].split(", "))
            wanted = {name: DDL_TYPES[kind] for name, kind in schema.items()}
            assert _types(getattr(flights, view["topic"])) == wanted


@pytest.mark.parametrize(
    ("view", "table"), [("origin_weather", "weather"), ("plane_register", "planes")]
)
def test_batch_views_read_columns_that_the_files_have(
    catalogue: dict[str, Any], flights: demo.Flights, view: str, table: str
) -> None:
    found = _types(getattr(flights, table))
    features = catalogue["views"][view]["features"]
    assert {name: found[name] for name in features} == {
        name: FIELD_TYPES[kind] for name, kind in features.items()
    }
    assert set(catalogue["views"][view]["keys"]) <= set(found)


def test_the_label_frame_has_all_that_the_model_service_asks_for(
    catalogue: dict[str, Any], flights: demo.Flights
) -> None:
    keys = set(catalogue["entities"].values())
    assert keys | set(catalogue["request"]) <= set(flights.labels.column_names)
    assert catalogue["request"] == {"sched_hour": "Int64", "sched_weekday": "Int64"}


def test_services_hold_their_views_and_short_names_are_unique(catalogue: dict[str, Any]) -> None:
    services = catalogue["services"]
    assert {name: sum(map(len, views.values())) for name, views in services.items()} == {
        "departure_delay_v1": 62,
        "airport_board": 8,
    }
    model = services["departure_delay_v1"]
    assert set(model) == set(catalogue["views"]) | set(catalogue["on_demand"])
    names = [feature for features in model.values() for feature in features]
    assert len(set(names)) == len(names)
    assert not set(names) & set(catalogue["entities"].values())


def test_stock_feast_answers_the_model_service_by_short_names(catalogue: dict[str, Any]) -> None:
    answer = catalogue["online"]
    assert len(answer) == 4 + 62
    assert answer["origin_mean_dep_delay_1h"] == [None]
    assert answer["is_rush_hour"] == [1]


def test_the_rush_is_on_working_days_and_unknown_without_an_hour(catalogue: dict[str, Any]) -> None:
    schedule = catalogue["transformed"]["schedule"]
    assert schedule["is_rush_hour"] == [1, 0, 0, None]
    assert schedule["hour_sin"][0] == 1
    assert isclose(schedule["hour_cos"][2], -1)
    assert schedule["hour_sin"][3] is None


def test_delays_are_compared_only_where_both_are_known(catalogue: dict[str, Any]) -> None:
    assert catalogue["transformed"]["delay_context"] == {
        "origin_delay_trend": [20.0, None, 1.0],
        "origin_over_carrier_delay": [-2.5, None, None],
        "origin_cancelled_ratio": [0.2, None, None],
    }


def test_every_view_has_an_owner_and_what_changes_has_a_freshness_objective(
    catalogue: dict[str, Any],
) -> None:
    tags = {name: view["tags"] for name, view in catalogue["views"].items()}
    assert all("owner" in of_view for of_view in tags.values())
    assert {name for name, of_view in tags.items() if "freshness_slo" not in of_view} == {
        "plane_register"
    }


@pytest.mark.parametrize(
    ("view", "table", "prefix"),
    [
        ("origin_weather", "weather", ""),
        ("plane_register", "planes", ""),
        ("plane_last_flight", "arrivals", "last_"),
    ],
)
def test_the_data_keeps_the_objectives_of_its_fields(
    catalogue: dict[str, Any], flights: demo.Flights, view: str, table: str, prefix: str
) -> None:
    of_view, rows = catalogue["views"][view], getattr(flights, table)
    outside: dict[str, list[Any]] = {}
    for name in of_view["features"]:
        tags = of_view["field_tags"].get(name, {})
        column = rows[name.removeprefix(prefix)]
        allowed = float(tags.get("max_null_ratio", of_view["tags"]["max_null_ratio"]))
        assert column.null_count / len(column) <= allowed, name
        outside[name] = [
            value for value in pc.unique(column.drop_null()).to_pylist() if not _keeps(value, tags)
        ]
    # One observation of the year cannot be true: a wind of 1,048 miles per hour.
    assert {name: [int(value) for value in bad] for name, bad in outside.items() if bad} == (
        {"wind_speed": [1048]} if view == "origin_weather" else {}
    )


def test_no_file_bears_the_name_of_an_installed_package() -> None:
    names = {path.stem for path in REPO.glob("*.py")}
    assert not names & {"service", "ingest", "headwater", "__init__"}


def _types(table: pa.Table) -> dict[str, str]:
    return {field.name: str(field.type) for field in table.schema}


def _over(view: dict[str, Any], window: str) -> dict[str, tuple[list[Any], str]]:
    """Each feature over one window: its function, column and seconds, and its type."""
    return {
        name: (aggregation, view["features"][name])
        for name, aggregation in view["aggregations"].items()
        if name.endswith(f"_{window}")
    }


def _keeps(value: Any, tags: dict[str, str]) -> bool:
    if "categories" in tags:
        return value in tags["categories"].split(",")
    low, high = float(tags.get("min", "-inf")), float(tags.get("max", "inf"))
    return isinstance(value, str) or low <= value <= high
