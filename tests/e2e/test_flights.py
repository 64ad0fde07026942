"""The main job on a year of real flights: real processes, a real broker, Feast's own clients."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore
from feast.repo_config import RepoConfig

from headwater.demo import flights
from headwater.demo.run import _Demo
from headwater.local import LocalKafka
from tests.processes import Programs

REPO = Path(__file__).parents[2] / "feature_repo"
SERVICE = "departure_delay_v1"
KEYS = ("origin", "dest", "carrier", "tailnum", "sched_hour", "sched_weekday")


class Year(NamedTuple):
    programs: Programs
    flights: flights.Flights
    streamed: int


@pytest.fixture(scope="module")
def year(
    tmp_path_factory: pytest.TempPathFactory, kafka: LocalKafka, redis_url: str
) -> Iterator[Year]:
    """The year so far, streamed through the real broker and materialized; a service that runs."""
    folder = tmp_path_factory.mktemp("flights")
    repo = folder / "feature_repo"
    shutil.copytree(REPO, repo, ignore=shutil.ignore_patterns("data", "__pycache__"))
    env = {
        "REDIS_URL": redis_url, "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
        "HEADWATER_FEATURE_LOG": str(folder / "vectors"), "HEADWATER_FEATURE_LOG_SECONDS": "1",
    }  # fmt: skip
    programs = Programs(repo, env)
    found = flights.load(datetime.now(UTC))
    found.write_batch_sources(repo / "data")
    programs.headwater("apply")
    run = _Demo(repo, folder)
    streamed = run._write_events(found)
    replay = programs.start(
        "ingest.replay", "--servers", kafka.bootstrap, "--events", str(folder / "past.parquet")
    )
    assert replay.wait(120) == 0
    assert programs.ingest("--until-end").wait(240) == 0
    programs.headwater("materialize")
    server = programs.serve()
    yield Year(programs, found, streamed)
    server.terminate()
    server.wait(30)


def test_the_log_holds_every_event_once(year: Year) -> None:
    logs = [
        pq.read_table(year.programs.repo / "data" / "log" / name, columns=["flight_id"])
        for name in ("departures", "arrivals")
    ]
    assert sum(log.num_rows for log in logs) == year.streamed
    for log in logs:
        assert len(set(log["flight_id"].to_pylist())) == log.num_rows


def served(year: Year, rows: list[dict[str, Any]]) -> tuple[dict[str, list[Any]], int]:
    """Features of some entities and the time they hold for, with no hop's edge in between."""
    body = {"feature_service": SERVICE, "entities": {k: [row[k] for row in rows] for k in KEYS}}
    while True:
        before = time.time_ns() // 1000
        status, answer = year.programs.post("/get-online-features", body)
        after = time.time_ns() // 1000
        assert status == 200, answer
        if before // 60_000_000 == after // 60_000_000:
            names = answer["metadata"]["feature_names"]
            values = [column["values"] for column in answer["results"]]
            return dict(zip(names, values, strict=True)), (before + after) // 2


def test_a_served_vector_equals_the_training_sets_row_at_that_time(
    year: Year, tmp_path: Path
) -> None:
    """252 entities at 3 times; counts and rows equal, floating sums to 1e-9."""
    chance = random.Random(5)
    labels = year.flights.labels
    parts: list[pa.Table] = []
    online: list[dict[str, list[Any]]] = []
    for _ in range(3):
        rows = [
            labels.slice(chance.randrange(labels.num_rows), 1).to_pylist()[0] for _ in range(84)
        ]
        found, at = served(year, rows)
        online.append(found)
        frame = pa.Table.from_pylist([{k: row[k] for k in KEYS} for row in rows])
        times = pa.array([at] * len(rows), pa.timestamp("us", tz="UTC"))
        parts.append(frame.append_column("event_timestamp", times))
        time.sleep(1.0)
    pq.write_table(pa.concat_tables(parts), tmp_path / "labels.parquet")
    year.programs.headwater(
        "training-set", "--service", SERVICE, "--entities", str(tmp_path / "labels.parquet"),
        "--out", str(tmp_path / "train.parquet"),
    )  # fmt: skip
    train = pq.read_table(tmp_path / "train.parquet").to_pydict()
    names = [name for name in train if name not in {*KEYS, "event_timestamp"}]
    assert len(names) == 62
    for name in names:
        ours = [value for found in online for value in found[name]]
        for mine, theirs in zip(ours, train[name], strict=True):
            if isinstance(mine, float) and theirs is not None:
                assert mine == pytest.approx(theirs, rel=1e-9, abs=1e-9), name
            else:
                assert mine == theirs, name
    some = [name for name in names if any(value is not None for value in train[name])]
    assert len(some) > 55, "almost every feature has values to compare"


def test_verify_finds_every_served_vector_equal_and_explain_says_what_it_is_made_of(
    year: Year,
) -> None:
    labels = year.flights.labels
    rows = labels.slice(1000, 400).to_pylist()
    found, at = served(year, rows)
    moment = datetime.fromtimestamp(at / 1e6 - 1, UTC).isoformat()

    def verified() -> Any:
        done = year.programs.run("verify", "--service", SERVICE, "--since", moment, "--json")
        return json.loads(done.stdout) if done.returncode == 0 else done.stderr

    deadline = time.monotonic() + 240
    while not isinstance(report := verified(), dict):
        assert "no vectors" in report or "no feature log" in report, report
        assert time.monotonic() < deadline
    assert report["vectors"] == 400
    assert report["different"] == 0
    assert report["compared"] > 400 * 55
    (temp,) = [f for f in report["features"] if f["feature"] == "temp"]
    series = '{feature="temp",feature_view="origin_weather"}'
    shown = f"verified_values_total{series} {float(temp['compared'])}"
    while shown not in year.programs.get("/metrics"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert f"online_offline_mismatch_total{series} 0.0" in year.programs.get("/metrics")
    newest = json.loads(year.programs.get("/api/v1/verifications"))[0]
    assert newest["vectors"] == 400
    whole = json.loads(year.programs.get(f"/api/v1/verifications/{newest['id']}"))
    assert whole["features"] == report["features"]

    entity = [f"--entity={key}={json.dumps(rows[0][key])}" for key in KEYS]
    after = datetime.fromtimestamp(at / 1e6, UTC).isoformat()
    text = year.programs.headwater(
        "explain", "--service", SERVICE, *entity, "--at", after, "--json"
    )
    about = {view["view"]: view for view in json.loads(text)["views"]}
    windows = about["origin_departures"]
    name = "origin_departures_7d"
    assert windows["features"][name]["value"] == found[name][0]
    assert windows["features"][name]["events"] == found[name][0]
    assert windows["events"][-1]["topic"] == "departures"
    assert sum(tile["events"] for tile in windows["tiles"]) == windows["events_in_all"]
    assert about["origin_weather"]["row"]["values"]["temp"] == found["temp"][0]


def test_every_label_is_kept_in_its_order(year: Year, tmp_path: Path) -> None:
    pq.write_table(year.flights.labels, tmp_path / "labels.parquet")
    year.programs.headwater(
        "training-set", "--service", SERVICE, "--entities", str(tmp_path / "labels.parquet"),
        "--out", str(tmp_path / "train.parquet"),
    )  # fmt: skip
    train = pq.read_table(tmp_path / "train.parquet")
    assert train.num_rows == 336_776
    assert train["flight_id"].equals(year.flights.labels["flight_id"])
    assert (tmp_path / "train.parquet.manifest.json").exists()


def test_feasts_sdk_reads_the_same_through_our_plugins(
    year: Year, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", year.programs.env["REDIS_URL"])
    store = FeatureStore(repo_path=str(year.programs.repo))
    features = ["origin_departures:origin_departures_7d", "origin_weather:temp"]
    rows = [{"origin": "JFK"}, {"origin": "LGA"}]
    direct = store.get_online_features(features, rows).to_dict()
    status, answer = year.programs.post(
        "/get-online-features", {"features": features, "entities": {"origin": ["JFK", "LGA"]}}
    )
    assert status == 200
    names = answer["metadata"]["feature_names"]
    ours = {n: c["values"] for n, c in zip(names, answer["results"], strict=True)}
    assert ours["temp"] == direct["temp"]
    assert ours["origin_departures_7d"] == direct["origin_departures_7d"]
    assert min(ours["origin_departures_7d"]) > 0

    now = datetime.now(UTC)
    entities = pd.DataFrame({"origin": ["JFK", "LGA"], "event_timestamp": [now, now]})
    past = store.get_historical_features(entities, features).to_df()
    assert past["temp"].tolist() == direct["temp"]
    assert past["origin_departures_7d"].tolist() == direct["origin_departures_7d"]


def test_feasts_stock_remote_client_works_against_the_service(year: Year, tmp_path: Path) -> None:
    config = RepoConfig(
        project="flights",
        provider="local",
        registry=str(year.programs.repo / "data" / "registry.db"),
        online_store={"type": "remote", "path": year.programs.url},
        offline_store={"type": "file"},
        entity_key_serialization_version=3,
        repo_path=tmp_path,
    )
    store = FeatureStore(config=config)
    found = store.get_online_features(
        ["origin_departures:origin_departures_7d", "plane_register:engine"],
        [{"origin": "JFK", "tailnum": "N3738B"}, {"origin": "none", "tailnum": "none"}],
    ).to_dict()
    assert found["engine"] == ["Turbo-jet", None]
    assert found["origin_departures_7d"][0] > 0
    assert found["origin_departures_7d"][1] == 0


def test_statuses_say_what_is_true(year: Year) -> None:
    body = {
        "features": ["plane_register:engine", "origin_departures:origin_mean_dep_delay_1h"],
        "entities": {"tailnum": ["N3738B", "nobody"], "origin": ["JFK", "nowhere"]},
    }
    _, answer = year.programs.post("/get-online-features", body)
    statuses = [column["statuses"] for column in answer["results"][2:]]
    assert statuses[0] == ["PRESENT", "NOT_FOUND"]
    assert statuses[1][1] == "NULL_VALUE"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"features": ["nope:x"], "entities": {}}, 404, "nope"),
        ({"features": ["origin_weather:tmp"], "entities": {"origin": ["JFK"]}}, 422, "'temp'"),
        ({"features": ["origin_weather:temp"], "entities": {}}, 422, "origin"),
        ({"features": ["origin_weather:temp"], "entities": {"origin": [1.5]}}, 422, "STRING"),
        ({"feature_service": "nope", "entities": {}}, 404, "nope"),
    ],
)
def test_a_clients_mistake_is_named_with_its_remedy(
    year: Year, body: Any, status: int, words: str
) -> None:
    found, answer = year.programs.post("/get-online-features", body)
    assert found == status
    assert words in str(answer)


def test_metrics_show_freshness_values_and_nulls(year: Year) -> None:
    text = year.programs.get("/metrics")
    for name in (
        'featurestore_last_event_timestamp_seconds{feature_view="origin_departures",stage="online"}',
        'featurestore_last_event_timestamp_seconds{feature_view="origin_departures",stage="offline"}',
        'featurestore_online_values_total{feature="temp",feature_view="origin_weather"}',
        'featurestore_online_nulls_total{feature="temp",feature_view="origin_weather",reason="null"}',
        "featurestore_request_duration_seconds_bucket",
    ):
        assert name in text
    assert year.programs.get("/openapi.json")


def test_sigterm_stops_a_worker_cleanly(year: Year) -> None:
    worker = year.programs.ingest()
    time.sleep(12)
    worker.terminate()
    try:
        assert worker.wait(30) == 0
    except subprocess.TimeoutExpired:
        worker.kill()
        raise
