"""What is served is verified again and again beside the service, which shows what was found."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from playwright.sync_api import expect

from headwater.arrow import TIMESTAMP
from headwater.offline.causes import SOURCE
from headwater.offline.recompute import NO_ROW
from headwater.online import verified
from tests.browser import visitor
from tests.serving import project
from tests.serving.server import Running, serve
from tests.waiting import until

FEATURES = [f"doubles:d{i}" for i in range(5)]
NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Path:
    folder = tmp_path_factory.mktemp("verified") / "repo"
    made = project.write(folder, project.ours(redis_url), "verifiedtests")
    load(made, {1: 1.0, 2: 2.0, 3: 3.0})
    project.apply(made)
    return made


def load(repo: Path, users: dict[int, float]) -> None:
    """The batch source of `doubles`."""
    columns: dict[str, Any] = {"user_id": pa.array(users, pa.int64())}
    columns |= {f"d{i}": pa.array([i * x for x in users.values()]) for i in range(5)}
    columns["event_timestamp"] = pa.array([NOW] * len(users), TIMESTAMP)
    pq.write_table(pa.table(columns), repo / "data" / "doubles.parquet")


@contextmanager
def verifying(
    repo: Path, settings: dict[str, str], end: signal.Signals = signal.SIGTERM
) -> Iterator[None]:
    command = [sys.executable, "-P", "-m", "headwater.cli", "verify", "--every", "0.3", "--json"]
    process = subprocess.Popen(
        [*command, "--repo", str(repo)], env=os.environ | settings, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield
        assert process.poll() is None, "it ended by itself"
    finally:
        process.send_signal(end)
        _, said = process.communicate(timeout=30)
    assert b"Traceback" not in said


def test_each_vector_is_verified_once_and_what_was_found_is_shown(
    repo: Path, redis_url: str
) -> None:
    settings = {
        "HEADWATER_FEATURE_LOG": str(repo / "log"), "HEADWATER_FEATURE_LOG_SECONDS": "0.3",
        "HEADWATER_LOG_FLUSH_SECONDS": "0.2", "REDIS_URL": redis_url,
    }  # fmt: skip
    with serve(repo, redis_url, **settings) as server:
        assert server.get("/api/v1/verifications").json == []
        assert "Nothing has been verified yet" in server.get("/ui/verify").body.decode()
        assert server.post("/materialize", {"feature_views": ["doubles"]}).status == 200
        # It goes on from where the last process ended.
        client = redis.Redis.from_url(redis_url)
        verified.reach(client, "verifiedtests", "", time.time_ns() // 1000, 0.3)
        with verifying(repo, settings):
            assert server.features(FEATURES, {"user_id": [1, 2, 3, 4]}).status == 200
            until(lambda: server.get("/api/v1/verifications").json)
            # The files change under what was loaded from them.
            load(repo, {1: 1.0, 2: 2.5, 3: 3.0})
            assert server.features(FEATURES, {"user_id": [2, 3]}).status == 200
            load(repo, {1: 1.0, 2: 2.5, 3: 3.0})
            until(lambda: len(server.get("/api/v1/verifications").json) == 2)
        newest, first = server.get("/api/v1/verifications").json
        assert (first["vectors"], first["compared"], first["different"]) == (4, 15, 0)
        assert first["not_comparable"] == 5
        assert (newest["vectors"], newest["compared"], newest["different"]) == (2, 10, 4)

        whole = server.get(f"/api/v1/verifications/{newest['id']}").json
        d1 = next(f for f in whole["features"] if f["feature"] == "d1")
        assert d1["causes"] == {SOURCE: 1}
        example = d1["examples"][0]
        assert (example["entity"], example["served"], example["recomputed"]) == (
            {"user_id": 2}, 2.0, 2.5,
        )  # fmt: skip
        assert server.get("/api/v1/verifications/0").status == 404

        shown_on_the_page(server, newest, first)
        series = '{feature="d1",feature_view="doubles"}'
        until(lambda: f"verified_values_total{series} 5.0" in metrics(server))
        text = metrics(server)
        assert f"online_offline_mismatch_total{series} 1.0" in text
        unasked = '{feature="score",feature_view="pairs"}'
        assert f"online_offline_mismatch_total{unasked} 0.0" in text
        # A supervisor that ends it changes nothing about when it is due; a person does.
        ended = due(server)
        assert ended is not None
        longest = max(run["seconds"] for run in server.get("/api/v1/verifications").json)
        assert ended < time.time() + 3 * (0.3 + 2 * longest + 1)
        with verifying(repo, settings, signal.SIGINT):
            until(lambda: (due(server) or 0) > ended)
        until(lambda: due(server) is None)


def metrics(server: Running) -> str:
    return server.get("/metrics").body.decode()


def due(server: Running) -> float | None:
    """By when the service says that there must be a new run."""
    found = re.findall(r"^featurestore_verify_due_timestamp_seconds (\S+)$", metrics(server), re.M)
    return float(found[0]) if found else None


def shown_on_the_page(server: Running, newest: dict[str, Any], first: dict[str, Any]) -> None:
    page = server.get("/ui/verify").body.decode()
    assert page.count("doubles:d1") == 1
    assert f"{SOURCE}: 1" in page
    for run in (newest, first):
        assert f"?run={run['id']}" in page
    earlier = server.get(f"/ui/verify?run={first['id']}").body.decode()
    assert NO_ROW in earlier
    assert SOURCE not in earlier
    assert server.get("/ui/verify?run=0").status == 404
    with visitor(server.url) as guest, guest.page("/ui/verify") as page:
        guest.looks_well(page, "verify")
        page.get_by_role("link", name=first["at"][:19].replace("T", " ")).first.click()
        expect(page.get_by_text(NO_ROW).first).to_be_visible()
