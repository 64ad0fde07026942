"""`headwater drift` on what a running service served and on an offline log: quiet, then drifted."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from prometheus_client.parser import text_string_to_metric_families

from headwater.arrow import TIMESTAMP
from headwater.catalog import Catalog, FieldPlan, StreamSourcePlan, ViewPlan
from headwater.errors import LogConflictError
from headwater.offline.drift import Asked, report
from headwater.offline.feature_log import LOG_TIME, FeatureLog
from headwater.offline.jobs import Job
from headwater.offline.log import EventLog, log_schema
from headwater.offline.manifest import Manifest
from headwater.offline.sketch_table import SketchTable
from headwater.offline.sketching import update
from headwater.offline.spec import Spec
from headwater.offline.upkeep import maintain
from headwater.quality.feature_sketches import HOUR_US
from tests.serving import project
from tests.serving.server import Running, serve
from tests.waiting import until

DAY_US = 24 * HOUR_US
USERS = list(range(project.USERS))


@pytest.fixture(scope="module")
def running(repo: Path, redis_url: str) -> Iterator[Running]:
    settings = {
        "HEADWATER_FEATURE_LOG": str(repo / "log"), "HEADWATER_FEATURE_LOG_SECONDS": "0.3",
        "HEADWATER_DRIFT_SECONDS": "2",
    }  # fmt: skip
    with serve(repo, redis_url, **settings) as server:
        server.fill(project.frames())
        yield server


def drift(repo: Path, redis_url: str, *words: str) -> tuple[int, Any]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("HEADWATER_")}
    env |= {"REDIS_URL": redis_url, "HEADWATER_FEATURE_LOG": str(repo / "log")}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "headwater.cli", "drift", "--repo", str(repo), *words],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout) if "--json" in words else done.stdout


def named(found: Any) -> dict[tuple[str, str], set[str]]:
    checks: dict[tuple[str, str], set[str]] = {}
    for alarm in found["alarms"]:
        checks.setdefault((alarm["feature_view"], alarm["feature"]), set()).add(alarm["check"])
    return checks


def ask(running: Running, times: int) -> None:
    features = [f"doubles:d{i}" for i in range(5)]
    for _ in range(times):
        assert running.features(features, {"user_id": USERS}).status == 200


def test_drift_of_what_is_served_is_named_by_feature_and_check(
    running: Running, repo: Path, redis_url: str
) -> None:
    ask(running, 20)
    log = FeatureLog(str(repo / "log" / "features"))

    def logged() -> int:
        return sum(part.table.num_rows for part in log.read()) if log.exists() else 0

    until(lambda: logged() == 20 * len(USERS))
    # What was served now was served three days ago as well: the baseline.
    for part in list(log.read()):
        early = pc.subtract(part.table[LOG_TIME], pa.scalar(3 * DAY_US, pa.duration("us")))
        at = part.table.column_names.index(LOG_TIME)
        log.write(part.plan, part.table.set_column(at, LOG_TIME, early), part.wholes)
    until(lambda: drift(repo, redis_url, "--of", "served", "--json")[1]["served"]["compared"] > 0)
    code, found = drift(repo, redis_url, "--of", "served", "--json")
    assert code == 0
    assert found["served"]["alarms"] == []
    (view,) = [v for v in found["served"]["views"] if v["feature_view"] == "doubles"]
    assert view["rows"] == view["baseline_rows"] == 20 * len(USERS)

    moved = project.frames()["doubles"]
    chance = random.Random(9)
    moved["d1"] = [4 + chance.gauss(0, 1) for _ in moved["d1"]]
    moved["d2"] = [None for _ in moved["d2"]]
    now = time.time()
    moved["event_timestamp"] = [now] * len(moved["d1"])
    running.fill({"doubles": moved})
    ask(running, 30)
    until(lambda: logged() == 70 * len(USERS))

    def metrics() -> dict[tuple[str, str], float]:
        found = {}
        for family in text_string_to_metric_families(running.get("/metrics").body.decode()):
            for sample in family.samples:
                if sample.labels.get("data") == "served":
                    key = sample.name.rpartition("_")[2], sample.labels["feature"]
                    found[(*key, sample.labels["test"])] = sample.value
        return found

    # The service compares by itself, and shows it, and by when it has to do so again.
    until(lambda: metrics().get(("score", "d1", "ks"), 0) > 0.5)
    ends, due = (
        float(re.findall(rf"^featurestore_{name} (\S+)$", text, re.MULTILINE)[0])
        for text in [running.get("/metrics").body.decode()]
        for name in ('last_success_timestamp_seconds{job="drift"}',
                     "feature_drift_due_timestamp_seconds")
    )  # fmt: skip
    assert due == pytest.approx(ends + 3 * 2)
    seen = metrics()
    assert seen["score", "d2", "null_share"] > seen["threshold", "d2", "null_share"]
    assert seen["score", "d3", "ks"] <= seen["threshold", "d3", "ks"]
    told = running.get("/api/v1/drift?of=served&feature_view=doubles&feature=d1").json
    assert {alarm["feature"] for alarm in told["alarms"]} == {"d1"}
    assert [f["feature"] for v in told["views"] for f in v["features"]] == ["d1"]
    assert running.get("/api/v1/drift?of=nothing").status == 422
    code, found = drift(repo, redis_url, "--of", "served", "--view", "doubles", "--json")
    assert code == 1
    drifted = named(found["served"])
    assert set(drifted) == {("doubles", "d1"), ("doubles", "d2")}
    assert {"mean", "ks", "psi"} <= drifted["doubles", "d1"]
    assert "null_share" in drifted["doubles", "d2"]
    code, text = drift(repo, redis_url, "--of", "served")
    assert code == 1
    assert "null_share" in text
    assert "drifted: d1, d2" in text
    assert "d3" not in text
    code, text = drift(repo, redis_url, "--of", "served", "--all")
    assert "d3" in text


def test_predictions_are_written_soon_and_measured_by_their_outcomes(running: Running) -> None:
    many = [{"model": "churn", "version": "7", "prediction": i / 10} for i in range(10)]
    answer = running.post("/api/v1/predictions", {"predictions": many})
    assert answer.status == 202
    ids = answer.json["prediction_ids"]
    assert (len(ids), answer.json["dropped"]) == (10, 0)
    outcomes = [
        {"model": "churn", "prediction_id": one, "outcome": i > 4} for i, one in enumerate(ids)
    ]
    assert running.post("/api/v1/predictions", {"outcomes": outcomes}).status == 202

    def days() -> Any:
        return running.get("/api/v1/models/churn/quality").json["days"]

    until(lambda: [day["outcomes"] for day in days()] == [10])
    (day,) = days()
    assert (day["version"], day["task"], day["auc"]) == ("7", "binary", 1.0)
    assert running.get("/api/v1/models/churn/quality?from=yesterday").status == 422
    assert (
        'logged_predictions_total{outcome="written"} 20.0' in running.get("/metrics").body.decode()
    )
    assert running.post("/api/v1/predictions", {"predictions": [1]}).status == 422


# -- the offline log ---------------------------------------------------------------------------

FIELDS = (
    FieldPlan("city", "STRING"), FieldPlan("fare", "DOUBLE"), FieldPlan("kind", "STRING"),
    FieldPlan("at", "UNIX_TIMESTAMP"),
)  # fmt: skip


def rides(folder: Path) -> Catalog:
    stream = StreamSourcePlan(
        "rides", ("rides",), "", "json", FIELDS, "at", log_path=str(folder / "log" / "rides")
    )
    view = ViewPlan("ride", "row", (), FIELDS[1:3], stream="rides")
    return Catalog(
        "p", "1", "", str(folder / "log"), streams={"rides": stream}, views={"ride": view}
    )


def append(catalog: Catalog, first: int, times: Any, fare: Any, partition: int = 0) -> None:
    """Events with offsets from `first` on."""
    stream = catalog.streams["rides"]
    n = len(times)
    offsets = list(range(first, first + n))
    kinds = ["a" if i % 3 else "b" for i in range(n)]
    columns = [["x"] * n, fare, kinds, times, ["rides"] * n, [partition] * n, offsets, times]
    schema = log_schema(stream)
    arrays = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
    EventLog(stream).append(pa.table(arrays, schema), {("rides", partition): offsets[-1]})


def test_a_log_is_sketched_once_whatever_becomes_of_its_files(tmp_path: Path) -> None:
    catalog, chance = rides(tmp_path), np.random.default_rng(4)
    table = SketchTable(catalog)

    def sketched() -> int:
        return update(catalog, table, {})["ride"]

    now = time.time_ns() // 1000 // HOUR_US * HOUR_US
    spread = np.sort(now - chance.integers(0, 9 * DAY_US, 20_000))
    for part, some in enumerate(np.array_split(spread, 4)):
        append(catalog, 5000 * part, some, chance.normal(10, 2, len(some)))
        if part % 2:
            assert sketched() == 10_000
    append(catalog, 0, spread[:10], np.full(10, 10.0), partition=1)
    assert sketched() == 10
    maintain(catalog.streams["rides"], 0, many=2)
    assert sketched() == 0

    def held() -> tuple[int, int]:
        span = table.span("offline", "ride", now - 10 * DAY_US, now + DAY_US)
        return span.features["fare"].rows, sum(span.hours.values())

    assert held() == (20_010, 20_010)
    table.tidy(now + 40 * DAY_US)
    assert held() == (20_010, 20_010)
    assert sketched() == 0

    quiet = report(catalog, table, Asked(until_us=now), tmp_path)
    assert quiet["compared"] > 10
    assert quiet["alarms"] == []
    labels, out = tmp_path / "labels.parquet", tmp_path / "set.parquet"
    pq.write_table(pa.table({"event_timestamp": pa.array(spread[::10], TIMESTAMP)}), labels)
    Job(catalog, Spec(str(labels), str(out), features=("ride:fare", "ride:kind"))).run()
    manifest = str(Manifest.path(out))

    # A day later, fares are higher.
    later = np.sort(now + chance.integers(0, DAY_US, 1000))
    append(catalog, 20_000, later, chance.normal(11, 2, 1000))
    assert sketched() == 1000
    found = report(catalog, table, Asked(until_us=now + DAY_US), tmp_path)
    drifted = named(found)
    assert set(drifted) == {("ride", "fare")}
    assert {"mean", "ks"} <= drifted["ride", "fare"]
    # A training set is a baseline as well, which stays whatever becomes of the log.
    shutil.rmtree(tmp_path / "log" / "rides")
    day = Asked(from_us=now - DAY_US, until_us=now, baseline=manifest)
    assert report(catalog, table, day, tmp_path)["alarms"] == []
    day = Asked(from_us=now, until_us=now + DAY_US, baseline=manifest)
    assert set(named(report(catalog, table, day, tmp_path))) == {("ride", "fare")}
    # Hours that nobody compares with any more go; what was sketched is not sketched again.
    table.tidy(now + 60 * DAY_US, 64 * DAY_US)
    hours = table.hours("offline", "ride", now - 10 * DAY_US, now + DAY_US)
    assert (min(hours), max(hours)) == (now - 4 * DAY_US, now + DAY_US - HOUR_US)
    assert table.mark("log:ride").progress


def test_of_two_that_sketch_at_once_one_adds_nothing(tmp_path: Path) -> None:
    catalog = rides(tmp_path)
    table, now = SketchTable(catalog), time.time_ns() // 1000
    append(catalog, 0, np.full(50, now), np.ones(50))
    early = table.mark("log:ride")
    assert update(catalog, table, {})["ride"] == 50
    with pytest.raises(LogConflictError, match="at the same time"):
        table.add("log:ride", early, now)
    append(catalog, 50, np.full(5, now), np.ones(5))
    with ThreadPoolExecutor(2) as both:
        done = [both.submit(update, catalog, SketchTable(catalog), {}) for _ in range(2)]
    assert sorted(one.result()["ride"] for one in done) == [0, 5]
    hour = now // HOUR_US * HOUR_US
    assert table.span("offline", "ride", hour, hour + HOUR_US).features["fare"].rows == 55
