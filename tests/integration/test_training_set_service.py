"""Training sets over HTTP, on the command line and in a notebook, over one small Feast project."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import headwater
from headwater.errors import HeadwaterError
from tests.processes import Programs

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
US = pa.timestamp("us", tz="UTC")
DEFINITIONS = """
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Int64

driver = Entity(name="driver", join_keys=["driver"], value_type=ValueType.INT64)
source = FileSource(name="rows", path="data/rows.parquet", timestamp_field="ts")
trips = FeatureView(name="trips", entities=[driver], ttl=timedelta(0), source=source,
                    schema=[Field(name="driver", dtype=Int64), Field(name="count", dtype=Int64,
                                                           tags={"max_null_ratio": "0.1"})])
service = FeatureService(name="all", features=[trips])
"""


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repo")
    (root / "data").mkdir()
    rows = pa.table({"driver": [1, 2, 1], "count": [10, 20, 11],
                     "ts": pa.array([T0, T0, T0 + HOUR], US)})  # fmt: skip
    pq.write_table(rows, root / "data" / "rows.parquet")
    (root / "definitions.py").write_text(DEFINITIONS)
    (root / "feature_store.yaml").write_text(
        "project: p\nregistry: data/registry.db\nprovider: local\n"
        "online_store: {type: headwater.online.RedisOnlineStore}\n"
        "offline_store: {type: headwater.offline.DuckDBOfflineStore}\n"
        "entity_key_serialization_version: 3\n"
    )
    run("apply", repo=root)
    return root


def run(*arguments: str, repo: Path, ok: bool = True) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "headwater.cli", *arguments, "--repo", str(repo)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode == 0) == ok, done.stderr
    return done.stdout if ok else done.stderr


def as_key(name: str) -> dict[str, str]:
    """The headers of a client whose key has that name (and, here, that secret)."""
    return {"authorization": f"Bearer {name}"}


@pytest.fixture(scope="module")
def client(repo: Path, redis_url: str) -> Iterator[httpx.Client]:
    keys = ",".join(
        f"{name}:{scopes}:{hashlib.sha256(name.encode()).hexdigest()}"
        for name, scopes in {"ann": "read", "bob": "read+write", "root": "admin+read"}.items()
    )
    programs = Programs(repo, {"REDIS_URL": redis_url, "HEADWATER_API_KEYS": keys})
    server = programs.serve()
    with httpx.Client(base_url=programs.url, timeout=30, headers=as_key("ann")) as client:
        yield client
    server.terminate()
    server.wait(30)


LABELS = {
    "driver": [2, 1, 3, 1],
    "event_timestamp": [(T0 + h * HOUR).isoformat() for h in (0, 2, 2, 0)],
}
WANTED = [20, 11, None, 10]


def finished(client: httpx.Client, place: str) -> dict[str, Any]:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        status: dict[str, Any] = client.get(place).json()
        if status["state"] not in {"queued", "running"}:
            return status
        time.sleep(0.05)
    raise AssertionError(f"the job is still {status}")


def test_a_job_is_started_followed_and_fetched(client: httpx.Client) -> None:
    started = client.post("/api/v1/training-sets", json={"service": "all", "entities": LABELS})
    assert started.status_code == 202
    place = started.headers["location"]
    status = finished(client, place)
    assert status["state"] == "done"
    assert status["done"] == status["total"] > 0
    table = pq.read_table(io.BytesIO(client.get(f"{place}/result").content))
    assert table["count"].to_pylist() == WANTED
    manifest = client.get(f"{place}/manifest").json()
    assert manifest["rows"] == 4
    assert manifest["null_counts"]["count"] == 1
    assert client.delete(place).status_code == 204
    assert client.get(place).status_code == 404


def test_a_job_is_its_key_s_own_and_an_admin_s(client: httpx.Client) -> None:
    place = client.post(
        "/api/v1/training-sets", json={"service": "all", "entities": LABELS}
    ).headers["location"]
    assert finished(client, place)["state"] == "done"
    routes = [("GET", place), ("GET", f"{place}/result"), ("GET", f"{place}/manifest"),
              ("DELETE", place)]  # fmt: skip
    for method, route in routes:
        assert client.request(method, route, headers=as_key("bob")).status_code == 404
        assert client.request(method, route, headers=as_key("nobody")).status_code == 401
    for method, route in routes:
        assert client.request(method, route, headers=as_key("root")).is_success
    assert client.get(place).status_code == 404


def test_labels_may_be_a_parquet_body(client: httpx.Client) -> None:
    body = io.BytesIO()
    labels = {**LABELS, "event_timestamp": pa.array([T0] * 4, US)}
    pq.write_table(pa.table(labels), body)
    started = client.post(
        "/api/v1/training-sets?features=trips:count&full_feature_names=true",
        content=body.getvalue(), headers={"content-type": "application/vnd.apache.parquet"},
    )  # fmt: skip
    assert started.status_code == 202, started.text
    place = started.json()["status"]
    assert finished(client, place)["state"] == "done"
    table = pq.read_table(io.BytesIO(client.get(f"{place}/result").content))
    assert table["trips__count"].to_pylist() == [20, 10, None, 10]


def test_a_look_at_a_sample_warns_before_the_whole_is_made(client: httpx.Client) -> None:
    rows = 40
    times = [(T0 + timedelta(minutes=i)).isoformat() for i in range(rows)]
    lines = [f"{'3' if i >= 30 else '1'},{times[i]},{i}" for i in range(rows)]
    body = "driver,event_timestamp,number\n" + "\n".join(lines)
    started = client.post("/api/v1/training-sets?service=all&sample=11", content=body,
                          headers={"content-type": "text/csv; charset=utf-8"})  # fmt: skip
    assert started.status_code == 202, started.text
    status = finished(client, started.json()["status"])
    assert status["state"] == "done", status
    # Driver 3 has no rows, and `count` may be null in a tenth.
    assert any("'count' is null in 3 of 11 labels" in text for text in status["warnings"])
    manifest = client.get(f"{started.json()['status']}/manifest").json()
    assert manifest["rows"] == 11
    histogram = manifest["profile"]["number"]["histogram"]
    assert (histogram["from"], sum(histogram["counts"])) == (0, 11)
    assert histogram["to"] == pytest.approx(35, rel=0.01)
    # The first and the last label are among them.
    table = pq.read_table(io.BytesIO(client.get(f"{started.json()['status']}/result").content))
    assert (table["number"][0].as_py(), table["number"][-1].as_py()) == (0, rows - 1)


def test_labels_may_lie_in_the_project_s_data_folder_and_nowhere_else(
    client: httpx.Client, repo: Path
) -> None:
    (repo / "data" / "labels.csv").write_text("driver,event_timestamp\n2,2026-01-01T02:00:00Z\n")
    (repo / "outside.csv").write_text("driver,event_timestamp\n")
    asked = {"service": "all", "labels": "labels.csv"}
    started = client.post("/api/v1/training-sets", json=asked)
    assert started.status_code == 202, started.text
    assert finished(client, started.headers["location"])["state"] == "done"
    listed = client.get("/api/v1/training-sets").json()
    mine = next(job for job in listed if job["id"] == started.json()["id"])
    assert (mine["service"], mine["owner"], mine["state"]) == ("all", "ann", "done")
    others = client.get("/api/v1/training-sets", headers=as_key("bob")).json()
    assert mine["id"] not in {job["id"] for job in others}
    held = f"training-sets/{started.json()['id']}/labels.parquet"
    for wrong in ("../outside.csv", "nothing.csv", held, "registry.db"):
        answer = client.post("/api/v1/training-sets", json={"service": "all", "labels": wrong})
        assert answer.status_code == 422
        assert "data folder" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("asked", "wrong"),
    [
        ({"service": "al", "entities": LABELS}, "did you mean 'all'"),
        ({"entities": LABELS}, "give a feature service or features"),
        ({"service": "all"}, "must be an object of columns"),
        ({"service": "all", "entities": {"driver": [1]}}, "event_timestamp"),
        ({"service": "all", "entities": {**LABELS, "driver": [1, None, 2, 3]}}, "null in 1 label"),
        ({"service": "all", "entities": {**LABELS, "driver": [1]}}, "one length"),
        ({"service": "all", "entities": {**LABELS, "driver": ["x"] * 4}}, "'driver' is string"),
        ({"service": "all", "entities": LABELS, "as_of": "today"}, "as_of"),
        ({"service": "all", "entities": LABELS, "out": "/etc/x"}, "cannot be asked for"),
    ],
)
def test_what_cannot_be_is_refused_before_a_job_starts(
    client: httpx.Client, asked: Any, wrong: str
) -> None:
    answer = client.post("/api/v1/training-sets", json=asked)
    assert answer.status_code == 422
    assert wrong in answer.json()["detail"]


def test_a_job_that_does_not_exist_is_404(client: httpx.Client) -> None:
    for name in ("nothing", "..", "%2e%2e%2fx"):
        assert client.get(f"/api/v1/training-sets/{name}").status_code == 404


def test_the_command_line_makes_a_set_and_makes_it_again(repo: Path, tmp_path: Path) -> None:
    labels = {**LABELS, "event_timestamp": pa.array([T0] * 4, US)}
    pq.write_table(pa.table(labels), tmp_path / "labels.parquet")
    out = tmp_path / "set.parquet"
    made = json.loads(run("training-set", "--service", "all", "--entities",
                          str(tmp_path / "labels.parquet"), "--out", str(out), "--json",
                          repo=repo))  # fmt: skip
    assert made["rows"] == 4
    assert pq.read_table(out)["count"].to_pylist() == [20, 10, None, 10]
    manifest = str(out) + ".manifest.json"
    again = tmp_path / "again.parquet"
    said = run("training-set", "--reproduce", manifest, "--out", str(again), repo=repo)
    assert "the same bytes" in said
    assert again.read_bytes() == out.read_bytes()
    pq.write_table(pa.table(labels).slice(1), tmp_path / "labels.parquet")
    said = run("training-set", "--reproduce", manifest, "--out", str(again), repo=repo, ok=False)
    assert "have changed" in said


def test_the_command_line_profiles_a_view(repo: Path) -> None:
    found = json.loads(run("profile", "--view", "trips", "--json", repo=repo))
    assert found[0]["rows"] == 3
    assert found[0]["features"]["count"]["max"] == 20
    assert "no feature views" in run("profile", "--view", "nope", repo=repo, ok=False)


def test_a_notebook_gets_arrow_pandas_or_polars(repo: Path) -> None:
    labels = pa.table({**LABELS, "event_timestamp": pa.array([T0 + HOUR / 2] * 4, US)})
    for frame in (labels, labels.to_pandas()):
        table = headwater.training_set(frame, service="all", repo=repo)
        assert table["count"].to_pylist() == [20, 10, None, 10]
    frame = headwater.training_set(labels, features=["trips:*"], repo=repo, output="pandas")
    assert frame["count"].tolist()[:2] == [20, 10]
    polars = headwater.training_set(labels, features=["trips:*"], repo=repo, output="polars")
    assert polars["count"].to_list() == [20, 10, None, 10]
    sql = "SELECT DISTINCT driver, TIMESTAMP '2026-01-01 00:30' AS event_timestamp FROM trips"
    table = headwater.training_set(sql, service="all", repo=repo)
    assert sorted(table["count"].to_pylist()) == [10, 20]
    with pytest.raises(HeadwaterError, match="one of them"):
        headwater.training_set(labels, repo=repo)
    leaky = pa.table({**LABELS, "event_timestamp": pa.array([T0] * 4, US)})
    with pytest.warns(UserWarning, match="an age of zero") as told:
        headwater.training_set(leaky, service="all", repo=repo)
    assert {warning.filename for warning in told} == {__file__}
